"""The texts of a run for its report: samples at some steps, and what the run said. Long texts are cut.

samples.jsonl -> where each text lies -> some steps and names -> those texts alone
messages.jsonl -> the first and the last messages, equal ones once
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from babyllm.training.recording.records import MESSAGES_FILE, SAMPLES_FILE

STEPS, NAMES = 6, 6
"""Numbers of steps and of names whose samples are shown."""
CHARACTERS = 1200
"""Characters that are shown of a sample."""
MAX_TEXTS = 200_000
"""Texts of which the place is noted; those after them are left out."""
MAX_LINE = 1 << 24
"""Bytes of the longest line that is read."""
MESSAGES = 40
"""Number of different messages that are kept at the beginning, and at the end."""


class Cut(NamedTuple):
    """The beginning of a text, and the number of characters that it leaves out."""

    text: str
    left_out: int


class Sample(NamedTuple):
    """A text that the model wrote at a step."""

    step: int
    text: Cut


def cut(text: str, characters: int = CHARACTERS) -> Cut:
    """The beginning of a text."""
    return Cut(text[:characters], max(0, len(text) - characters))


@dataclass
class Samples:
    """Some samples of a run.

    Attributes:
        texts: samples by name, each in the order of steps.
        steps: number of steps that have samples.
        names: number of names.
        damaged: number of lines that are not samples.
    """

    texts: dict[str, list[Sample]] = field(default_factory=dict)
    steps: int = 0
    names: int = 0
    damaged: int = 0


def read_samples(run_dir: Path) -> Samples:
    """The samples of a run directory at evenly spread steps, the first and the last among them.

    Raises:
        OSError: there is no samples.jsonl, or it cannot be read.
    """
    path, made = run_dir / SAMPLES_FILE, Samples()
    places: dict[int, dict[str, int]] = {}
    names: dict[str, None] = {}
    for offset, record in _lines(path, made):
        step, name, text = (record.get(key) for key in ("step", "name", "text"))
        if not (isinstance(step, int) and isinstance(name, str) and isinstance(text, str)):
            made.damaged += 1
        elif len(places) < MAX_TEXTS and len(name) < 1000:
            places.setdefault(step, {})[name] = offset
            names.setdefault(name)
    made.steps, made.names = len(places), len(names)
    chosen = spread(sorted(places), STEPS)
    with path.open("rb") as file:
        for name in list(names)[:NAMES]:
            for step in chosen:
                if (place := places[step].get(name)) is not None:
                    file.seek(place)
                    text = json.loads(file.readline(MAX_LINE))["text"]
                    made.texts.setdefault(name, []).append(Sample(step, cut(text)))
    return made


def spread(steps: Sequence[int], n: int) -> list[int]:
    """At most `n` of the steps, evenly spread, the first and the last among them."""
    if len(steps) <= n:
        return list(steps)
    return [steps[round(i * (len(steps) - 1) / (n - 1))] for i in range(n)]


def _lines(path: Path, made: Samples) -> Iterator[tuple[int, dict[str, Any]]]:
    """(offset, record) of each whole line; a line that is not an object is counted."""
    offset = 0
    with path.open("rb") as file:
        while line := file.readline(MAX_LINE):
            start, is_whole = offset, line.endswith(b"\n")
            offset += len(line)
            while line and not line.endswith(b"\n"):
                line = file.readline(MAX_LINE)
                offset += len(line)
                made.damaged += line.endswith(b"\n")
            if is_whole:
                try:
                    record = json.loads(line)
                except (ValueError, RecursionError):
                    record = None
                if isinstance(record, dict):
                    yield start, record
                else:
                    made.damaged += 1


class Message(NamedTuple):
    """What a run said, and the step at which it said it."""

    step: int
    text: Cut


@dataclass
class Messages:
    """What a run said about itself.

    Attributes:
        texts: the first and the last messages, equal ones once.
        left_out: number of messages between these.
        total_steps: step at which the run was to end; None if unknown.
        end: last line of the last start, such as "finished at step 902"; None if it has not ended.
    """

    texts: list[Message] = field(default_factory=list)
    left_out: int = 0
    total_steps: int | None = None
    end: str | None = None


def read_messages(run_dir: Path) -> Messages:
    """The messages of a run directory; empty for a run of an earlier version.

    Raises:
        OSError: the file cannot be read.
    """
    path, made, ignored = run_dir / MESSAGES_FILE, Messages(), Samples()
    if not path.is_file():
        return made
    first: dict[str, Message] = {}
    last: dict[str, Message] = {}
    for _, record in _lines(path, ignored):
        step, text = record.get("step"), record.get("text")
        if not isinstance(step, int) or not isinstance(text, str):
            continue
        if isinstance(record.get("total_steps"), int):
            made.total_steps, made.end = record["total_steps"], None
        elif record.get("is_end"):
            made.end = text[:CHARACTERS]
        elif text not in first and text not in last:
            if len(first) < MESSAGES:
                first[text] = Message(step, cut(text))
                continue
            last[text] = Message(step, cut(text))
            if len(last) > MESSAGES:
                del last[next(iter(last))]
                made.left_out += 1
    made.texts = [*first.values(), *last.values()]
    return made
