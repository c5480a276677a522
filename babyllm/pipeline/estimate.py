"""How long a stage will take, with how much memory and disk, from runs of its own code on parts of its input.

two samples, one larger than the other -> the stage in a temporary folder -> seconds = fixed + rate * bytes
rate, sizes of the partitions -> the worker that is busy longest -> seconds of all -> report

The fixed part holds the start of worker processes, the loading of libraries and models, and the files of the result.
The runs with several workers show how much they slow each other down.
"""

from __future__ import annotations

import heapq
import io
import os
import resource
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from babyllm.pipeline.partitions import WorkConfig
from babyllm.pipeline.report import Cell, Fact, Report, Table
from babyllm.pipeline.step_times import MEMORY_UNIT, steps_noted
from babyllm.runtime.machine import cores

T = TypeVar("T")
FIRST_BYTES = 1 << 18  # of the smaller sample
SECONDS = 8.0  # that the larger sample should take
START_S = 0.1  # of work for each worker, in the run that shows how long they take to start
PARTS = 2  # of the larger sample, for each worker
_LOOK_S = 0.1
_UNITS = ("B", "KB", "MB", "GB", "TB")


@dataclass(frozen=True)
class Sample(Generic[T]):
    """A part of a stage's input.

    Attributes:
        items: items of work, as the stage divides its input.
        size_bytes: their size, counted as that of the whole input is.
    """

    items: Sequence[T]
    size_bytes: float


@dataclass(frozen=True)
class Work(Generic[T]):
    """A stage and its input.

    Attributes:
        stage: function that works on items and writes the result into a folder.
        draw: function that draws a sample of a number of items of a number of bytes each, from all over the input.
        sizes: sizes in bytes of the partitions into which the stage divides its input.
        prepare_s: seconds that it takes to find them.
    """

    stage: Callable[[Sequence[T], Path, WorkConfig], Any]
    draw: Callable[[int, int], Sample[T]]
    sizes: Sequence[int]
    prepare_s: float


@dataclass(frozen=True)
class _Measured:
    """A run on a sample.

    Attributes:
        size_bytes: size of the sample.
        seconds: seconds that it took.
        disk_bytes: most bytes that its files took at a time.
        result_bytes: bytes of its result.
        worker_bytes: most memory of a worker process.
    """

    size_bytes: float
    seconds: float
    disk_bytes: int
    result_bytes: int
    worker_bytes: int


@dataclass(frozen=True)
class Estimate:
    """What a stage will need with a number of workers.

    Attributes:
        workers: number of processes that work at a time.
        seconds: seconds from the start of the command to its end.
        memory_bytes: most memory of all processes together.
        disk_bytes: most bytes of files at a time.
        result_bytes: bytes of the result.
    """

    workers: int
    seconds: float
    memory_bytes: int
    disk_bytes: float
    result_bytes: float


def estimate(what: Work[T], work: WorkConfig) -> list[Estimate]:
    """The needs of a stage with one worker and with as many as `work` names, where that is more.

    Args:
        what: stage and input.
        work: use of the machine; the engine is this machine.

    Raises:
        UserError: the stage raises it on the sample.
    """
    start_s = time.process_time() + what.prepare_s
    total = sum(what.sizes)
    first = what.draw(1, min(FIRST_BYTES, total))
    _measured(what, first, 1)  # loads libraries, as a worker process does
    leader_bytes = _memory_here()
    small = _measured(what, first, 1)
    rate = small.size_bytes / max(1e-3, small.seconds)
    large = _measured(what, what.draw(PARTS, _part(rate * SECONDS / PARTS, total / PARTS)), 1)
    if large.seconds < SECONDS / 2 and large.size_bytes < total / 2:  # the small one took long for its size
        rate = max(large.size_bytes / large.seconds, _rate(small, large))
        small, large = large, _measured(what, what.draw(PARTS, _part(rate * SECONDS / PARTS, total / PARTS)), 1)
    found = [_extrapolated(what, 1, small, large, start_s, _memory_here())]
    n = min(work.workers or cores(), len(what.sizes))
    if n > 1:
        rate = large.size_bytes / large.seconds
        small = _measured(what, what.draw(n, _part(START_S * rate, total / n)), n)  # little but the start of workers
        large = _measured(what, what.draw(PARTS * n, _part(rate * SECONDS / PARTS, total / n / PARTS)), n)
        memory = leader_bytes + n * large.worker_bytes
        found.append(_extrapolated(what, n, small, large, start_s, memory))
    return found


def _part(wanted: float, most: float) -> int:
    return max(1, int(min(wanted, most)))


def _memory_here() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * MEMORY_UNIT


def estimates_report(title: str, what: Work[Any], estimates: Sequence[Estimate], work: WorkConfig) -> Report:
    """The needs of a stage as a report."""
    rows: list[list[Cell]] = [
        [e.workers, _duration(e.seconds), *(_size(n) for n in (e.memory_bytes, e.disk_bytes, e.result_bytes))]
        for e in estimates
    ]
    columns = ("workers", "time", "memory", "disk", "of which result")
    partitions = len(what.sizes)
    facts: list[Fact] = [
        ("input", _size(sum(what.sizes))),
        ("partitions", partitions),
        ("largest partition", _size(max(what.sizes))),
    ]
    if partitions < (wanted := work.workers or cores()):
        facts.append(("idle workers", f"{wanted - partitions}; a smaller --work.partition_bytes makes more partitions"))
    return Report(title, facts, [Table("Estimates from samples; nothing was written", columns, rows)])


def _rate(small: _Measured, large: _Measured) -> float:
    """Bytes per second, without what does not depend on the size of the input."""
    more, seconds = large.size_bytes - small.size_bytes, large.seconds - small.seconds
    return more / seconds if more > 0 and seconds > 0 else large.size_bytes / large.seconds


def _extrapolated(
    what: Work[Any], n: int, small: _Measured, large: _Measured, start_s: float, memory_bytes: int
) -> Estimate:
    rate = _rate(small, large)
    fixed = max(0.0, large.seconds - large.size_bytes / rate)
    share = sum(what.sizes) / large.size_bytes
    seconds = start_s + fixed + n * _busiest(what.sizes, n) / rate
    return Estimate(n, seconds, memory_bytes, large.disk_bytes * share, large.result_bytes * share)


def _busiest(sizes: Sequence[int], n: int) -> int:
    """The bytes of the worker that is busy longest, if each takes the next partition when it is idle."""
    loads = [0] * n
    for size in sizes:
        heapq.heapreplace(loads, loads[0] + size)
    return max(loads)


# ---- one run


def _measured(what: Work[T], sample: Sample[T], n_workers: int) -> _Measured:
    work = WorkConfig(workers=n_workers, engine="local")
    with tempfile.TemporaryDirectory(prefix="babyllm-plan-") as folder, _watched(Path(folder)) as most:
        out, begin = Path(folder) / "out", time.perf_counter()
        with redirect_stderr(io.StringIO()), steps_noted() as steps:
            what.stage(sample.items, out, work)
        seconds = time.perf_counter() - begin
        result = _bytes_below(out)
    peak = max((cost.peak_bytes for step in steps for cost in step.costs), default=0)
    return _Measured(sample.size_bytes, seconds, max(most[0], result), result, peak)


@contextmanager
def _watched(folder: Path) -> Iterator[list[int]]:
    """The most bytes that files below a folder take while the body runs, as a list of this number."""
    most, is_over = [0], threading.Event()

    def watch() -> None:
        while not is_over.wait(_LOOK_S):
            most[0] = max(most[0], _bytes_below(folder))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield most
    finally:
        is_over.set()
        thread.join()


def _bytes_below(folder: Path) -> int:
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(place, name)).st_size
            except OSError:  # moved or deleted meanwhile
                continue
    return total


def _size(n_bytes: float) -> str:
    power = next((power for power in range(len(_UNITS) - 1) if n_bytes < 1000 ** (power + 1)), len(_UNITS) - 1)
    return f"{n_bytes / 1000**power:.3g} {_UNITS[power]}"


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 100 * 60 else f"{seconds / 3600:.3g} h"
