"""What the steps of a stage have cost: seconds, throughput, and the slowest partition of each.

A cost is measured in the process that does the work, and stored with the partition until the stage is complete. So it
is known after an interruption too. It is shown at the end of a command and in its returned report. The files of a
result do not contain it: they are the same wherever and how often a command ran.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # help about commands loads this module
    from babyllm.pipeline.report import Cell, Report

TITLE = "Time by step (rates: of one process)"
COLUMNS = (
    *("step", "partitions", "seconds", "CPU seconds", "MB/s", "documents/s"),
    *("slowest partition", "its seconds", "its share"),
)
MEMORY_UNIT = 1 << 10 if sys.platform != "darwin" else 1  # bytes in which the system counts memory


@dataclass(frozen=True)
class Cost:
    """What the work on a partition cost.

    Attributes:
        seconds: seconds that passed.
        cpu_seconds: seconds of the processor, those of all threads together.
        peak_bytes: largest memory that the process has had so far.
    """

    seconds: float
    cpu_seconds: float
    peak_bytes: int


class Stopwatch:
    """Measures the cost of work in this process from its creation on."""

    def __init__(self) -> None:
        self._begin, self._cpu_begin = time.perf_counter(), time.process_time()

    def cost(self) -> Cost:
        """The cost so far."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * MEMORY_UNIT
        return Cost(time.perf_counter() - self._begin, time.process_time() - self._cpu_begin, peak)


@dataclass(frozen=True)
class Step:
    """What a step of a stage cost.

    Attributes:
        name: name of the step.
        costs: cost of each partition.
        size_bytes: bytes of input of all partitions; None if they are not known.
        slowest: name of the partition that took longest.
    """

    name: str
    costs: Sequence[Cost]
    size_bytes: int | None
    slowest: str


_STEPS: ContextVar[list[Step] | None] = ContextVar("steps", default=None)


@contextmanager
def steps_noted() -> Iterator[list[Step]]:
    """Collect the steps that end in the body; whoever collects around it gets them too."""
    steps: list[Step] = []
    token = _STEPS.set(steps)
    try:
        yield steps
    finally:
        _STEPS.reset(token)
        around = _STEPS.get()
        if around is not None:
            around += steps


def note_step(name: str, items: Sequence[Any], costs: Sequence[Cost], sizes: Sequence[int] | None) -> None:
    """Note a step that has ended, if steps are collected.

    Args:
        name: name of the step.
        items: items that were worked on.
        costs: cost of each item.
        sizes: bytes of each item; None if they are not known.
    """
    steps = _STEPS.get()
    if steps is not None and costs:
        number = max(range(len(costs)), key=lambda i: costs[i].seconds)
        steps.append(Step(name, costs, sum(sizes) if sizes else None, f"{number:05d} {_named(items[number])}".rstrip()))


def _named(item: Any) -> str:
    """The name of the first file of an item; empty if it has none."""
    while isinstance(item, (tuple, list)) and item:
        item = item[0]
    if sources := getattr(item, "sources", None):
        item = sources[0]
    name = getattr(item, "name", None) or getattr(item, "path", None)
    return str(name).rpartition("/")[2] if name else ""


def with_times(report: Report, documents: int) -> Report:
    """The report with a table of the steps that were noted.

    Args:
        report: report of a stage.
        documents: number of documents that were read.
    """
    from babyllm.pipeline.report import Table

    rows: list[list[Cell]] = []
    for step in _STEPS.get() or ():
        seconds = sum(cost.seconds for cost in step.costs)
        slowest = max(cost.seconds for cost in step.costs)
        per_second = 1 / max(seconds, 1e-9)
        rate = None if step.size_bytes is None else round(step.size_bytes * per_second / 1e6, 2)
        cpu = round(sum(cost.cpu_seconds for cost in step.costs), 2)
        rows.append(
            [
                *(step.name, len(step.costs), round(seconds, 2), cpu, rate, round(documents * per_second)),
                *(step.slowest, round(slowest, 2), slowest * per_second),
            ]
        )
    return replace(report, times=Table(TITLE, COLUMNS, rows)) if rows else report
