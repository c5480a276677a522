"""The curves of a run, read from metrics.jsonl in one pass and thinned while they are read, so that memory is bounded.

metrics.jsonl, line by line -> the part of the file that a line lies in -> mean, least and largest value of each part

A line that is not a record is counted and left out; a last line cut by a kill is not counted.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from math import fsum
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from babyllm.training.recording.better import is_better
from babyllm.training.recording.records import METRICS_FILE

POINTS = 400
"""Largest number of points of a curve."""
MAX_NAMES = 300
"""Number of names of which curves are kept; those that come after them are counted."""
MAX_LINE = 1 << 20
"""Bytes of the longest line that is read as a record."""
_ERROR = "_stderr"


class Point(NamedTuple):
    """One part of a curve: its mean step, and mean, least and largest value."""

    step: float
    mean: float
    low: float
    high: float


class Result(NamedTuple):
    """A result on held-out data: the step, the value and its standard error, which is None if unknown."""

    step: int
    value: float
    error: float | None


@dataclass
class Metrics:
    """What the records of a run say.

    Attributes:
        curves: points by name, in the order in which the names first came.
        last: last finite value of each name.
        held_out: last result by name, without "val/".
        best: best result by name, without "val/".
        records: number of records.
        damaged: number of lines that are not records.
        more_names: number of names beyond `MAX_NAMES`.
        nulls: number of losses that were not finite.
        step: last step.
        seconds: time in steps, which leaves out evaluations, saving and pauses.
        waited: part of `seconds` spent waiting for data.
        mfu_seconds: integral of the model FLOPs utilisation over `seconds`.
        wall: seconds from the first record to the last, pauses included.
    """

    curves: dict[str, list[Point]] = field(default_factory=dict)
    last: dict[str, float] = field(default_factory=dict)
    held_out: dict[str, Result] = field(default_factory=dict)
    best: dict[str, Result] = field(default_factory=dict)
    records: int = 0
    damaged: int = 0
    more_names: int = 0
    nulls: int = 0
    step: int = 0
    seconds: float = 0.0
    waited: float = 0.0
    mfu_seconds: float = 0.0
    wall: float = 0.0


def read_curves(run_dir: Path) -> Metrics:
    """The records of a run directory, thinned to `POINTS` points for each name.

    Raises:
        OSError: there is no metrics.jsonl, or it cannot be read.
    """
    path = run_dir / METRICS_FILE
    made, reading = Metrics(), _Reading()
    size = max(1, path.stat().st_size)
    with path.open("rb") as file:
        part, records = 0, list[dict[str, Any]]()
        for offset, record in _records(file, made):
            if offset * POINTS // size != part:
                reading.add(made, records)
                part, records = offset * POINTS // size, []
            records.append(record)
        reading.add(made, records)
    made.curves = {name: points for name, points in reading.points.items() if name not in ("step", "time")}
    made.more_names = len(reading.left_out)
    return made


def _records(file: BinaryIO, made: Metrics) -> Iterator[tuple[int, dict[str, Any]]]:
    """(offset, record) of each line that is a record; other lines are counted."""
    offset = 0
    while line := file.readline(MAX_LINE):
        is_whole, start = line.endswith(b"\n"), offset
        offset += len(line)
        while line and not line.endswith(b"\n"):  # the rest of a line that is too long, or cut
            line = file.readline(MAX_LINE)
            offset += len(line)
            made.damaged += line.endswith(b"\n")
        if is_whole:
            try:
                record = json.loads(line)
                step = record["step"]
                if isinstance(step, bool) or not 0 <= step < 1e15:
                    raise ValueError
            except (ValueError, KeyError, TypeError, RecursionError):
                made.damaged += 1
                continue
            yield start, record


class _Reading:
    """The points of the parts that were read, and what goes on from one part to the next."""

    def __init__(self) -> None:
        self.points: dict[str, list[Point]] = {}
        self.left_out: set[str] = set()
        self._first_time: float | None = None
        self._tokens = 0.0

    def add(self, made: Metrics, records: Sequence[dict[str, Any]]) -> None:
        """Add the records of a part of the file."""
        if not records:
            return
        made.records += len(records)
        made.step = int(records[-1]["step"])
        made.nulls += sum("loss" in record and record["loss"] is None for record in records)
        for name in dict.fromkeys(chain.from_iterable(records)):
            if name not in self.points and len(self.points) >= MAX_NAMES:
                self._leave_out(name)
                continue
            steps, values = _numbers(records, name)
            if values:
                n = len(values)
                self.points.setdefault(name, []).append(
                    Point(fsum(steps) / n, fsum(values) / n, min(values), max(values))
                )
                made.last[name] = values[-1]
                if name.startswith("val/") and not name.endswith(_ERROR):
                    _note_held_out(made, records, name)
        self._note_time(made, records)

    def _leave_out(self, name: str) -> None:
        if len(self.left_out) < MAX_NAMES:
            self.left_out.add(name)

    def _note_time(self, made: Metrics, records: Sequence[dict[str, Any]]) -> None:
        """Add the time of the records' steps, from tokens and speed, so that pauses do not count."""
        times = _numbers(records, "time")[1]
        if times:
            self._first_time = times[0] if self._first_time is None else self._first_time
            made.wall = max(0.0, times[-1] - self._first_time)
        for record in records:
            tokens, rate = _number(record.get("tokens")), _number(record.get("tokens_per_s"))
            if tokens is None or rate is None or rate <= 0:
                continue
            seconds, self._tokens = max(0.0, tokens - self._tokens) / rate, tokens
            made.seconds += seconds
            made.waited += seconds * min(1.0, max(0.0, _number(record.get("data_wait")) or 0.0))
            made.mfu_seconds += seconds * (_number(record.get("mfu")) or 0.0)


def _numbers(records: Sequence[dict[str, Any]], name: str) -> tuple[list[float], list[float]]:
    """The steps at which a name has a finite value, and the values."""
    found = [(record["step"], value) for record in records if (value := _number(record.get(name))) is not None]
    return [step for step, _ in found], [value for _, value in found]


def _number(value: object) -> float | None:
    """A number whose sums are finite; None for anything else."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return None
    return float(value) if -1e300 < value < 1e300 else None


def _note_held_out(made: Metrics, records: Sequence[dict[str, Any]], full: str) -> None:
    name = full.removeprefix("val/")
    for record in records:
        value = _number(record.get(full))
        if value is not None:
            result = Result(int(record["step"]), value, _number(record.get(full + _ERROR)))
            made.held_out[name] = result
            if name not in made.best or is_better(name, value, made.best[name].value):
                made.best[name] = result
