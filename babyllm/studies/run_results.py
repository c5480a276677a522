"""The results of a finished run, read from its directory.

metrics.jsonl -> the step that the run stands for -> results on held-out data, tokens, seconds
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from babyllm.errors import UserError
from babyllm.run_directory import meant_step
from babyllm.training.recording.records import METRICS_FILE, read_metrics

HELD_OUT = "val/"
_TAIL_BYTES = 1 << 16
Record = Mapping[str, float | None]


@dataclass(frozen=True)
class RunResult:
    """What a run has learned, and from how much.

    Attributes:
        values: results on held-out data by name, such as all/bpb; None for one that was not a finite number.
        step: step that the run stands for: the last, or the best one after an early stop.
        steps: number of steps trained.
        tokens: number of tokens trained on.
        seconds: seconds spent in training steps, without evaluations, starts and breaks.
    """

    values: Mapping[str, float | None]
    step: int
    steps: int
    tokens: int
    seconds: float


def run_result(directory: Path, names: Iterable[str]) -> RunResult:
    """The result of a run.

    Args:
        directory: the run directory.
        names: names of the results on held-out data.

    Raises:
        UserError: the run has no such result, or its records are missing.
    """
    records = read_metrics(directory)
    meant = meant_step(directory)
    steps = max((int(record["step"] or 0) for record in records), default=0)
    step = int(meant.name.removeprefix("step_")) if meant else steps
    values: dict[str, float | None] = {}
    for record in records:
        if int(record["step"] or 0) <= step:
            values |= {
                name.removeprefix(HELD_OUT): value for name, value in record.items() if name.startswith(HELD_OUT)
            }
    for name in names:
        if name not in values:
            known = (
                ", ".join(sorted(each for each in values if not each.endswith("_stderr")))
                or "none: nothing is held out"
            )
            raise UserError(f"{directory}: has no result {name!r} on held-out data; there are {known}")
    tokens = [int(record["tokens"] or 0) for record in records if "tokens" in record]
    return RunResult(
        {name: values[name] for name in names}, step, steps, max(tokens, default=0), training_seconds(records)
    )


def training_seconds(records: Sequence[Record]) -> float:
    """The seconds in the training steps of a run: the tokens of each record over its tokens per second."""
    seconds, before = 0.0, 0.0
    for record in records:
        tokens, speed = record.get("tokens"), record.get("tokens_per_s")
        if tokens is not None and speed:
            seconds, before = seconds + max(0.0, tokens - before) / speed, tokens
    return seconds


def curve(directory: Path, name: str) -> list[tuple[int, float]]:
    """(step, value) of each evaluation of a run with a finite value of this result.

    Raises:
        UserError: its records are missing or damaged.
    """
    found = ((record["step"], record.get(f"{HELD_OUT}{name}")) for record in read_metrics(directory))
    return [(int(step or 0), value) for step, value in found if value is not None]


def last_step(directory: Path) -> int:
    """The step of the newest record of a run that may be in progress; 0 before the first."""
    try:
        with (directory / METRICS_FILE).open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _TAIL_BYTES))
            lines = file.read().splitlines()
    except OSError:
        return 0
    for line in reversed(lines):
        try:
            return int(json.loads(line)["step"])
        except (ValueError, KeyError, TypeError):
            continue  # cut at the beginning, or in the writing
    return 0
