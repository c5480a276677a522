"""The records that a store does not use: those that repeat others, and all of them in one file with their lines."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from babyllm.chat.reading import READ
from babyllm.pipeline.output import REJECTED
from babyllm.prepare.conversations_report import Tally
from babyllm.prepare.rendered.data_record import DataTally
from babyllm.prepare.rendered.render_settings import Record
from babyllm.text.readers import Rejected, Source
from babyllm.text.readers.line_numbers import LineNumbers
from babyllm.text.readers.records import rejected

_REPEATS = "repeats "  # before the place of the record that stays


def left(record: Record, tally: Tally, of_data: DataTally, excerpt: str) -> Rejected | None:
    """The report of a usable record that is not read because it repeats another one; None for one that is not drawn.

    Args:
        record: the record.
        tally: outcomes of its split and task, in which it is counted.
        of_data: outcomes of its data set, in which it is counted too.
        excerpt: beginning of the record.
    """
    if not record.is_drawn:
        tally.count("not_drawn", 0)
        of_data.not_drawn += 1
        return None
    tally.count("repeated", 0)
    of_data.repeated += 1
    return rejected(record.item.id, f"{_REPEATS}{record.original}", excerpt)


def join_rejected(folders: Sequence[Path], directory: Path, files: Mapping[Path, Source]) -> None:
    """Join the unused records into one `rejected.jsonl`, in order; add line numbers for files of several partitions.

    Args:
        folders: folders of the partitions, in order.
        directory: directory of the joined file; none is written without such records.
        files: all files by path.
    """
    sources = {source.name: source for source in files.values() if source.format != ".parquet"}
    lines = {name: _numbers(source) for name, source in sources.items()}
    originals = _lines_of_originals(folders, sources)
    target = directory / REJECTED
    with target.open("w", encoding="utf-8") as joined:
        for record in _unused(folders):
            name, offset = _parted(record["place"])
            if record["line"] is None and name in lines and offset is not None:
                record["line"] = lines[name].at(offset)
            if record["reason"].startswith(_REPEATS):
                record["reason"] = _with_line(record["reason"], originals)
            joined.write(json.dumps(record, ensure_ascii=False) + "\n")
    if not target.stat().st_size:
        target.unlink()


def _numbers(source: Source) -> LineNumbers:
    return LineNumbers(replace(source, start=0, end=None), READ)


def _unused(folders: Sequence[Path]) -> Iterator[dict[str, Any]]:
    for folder in folders:
        with (folder / REJECTED).open(encoding="utf-8") as piece:
            yield from map(json.loads, piece)


def _parted(place: str) -> tuple[str, int | None]:
    """The file of a place, and the number after it; None if there is none."""
    name, _, number = place.rpartition(":")
    return name, int(number) if number.isdigit() else None


Lines = Mapping[str, tuple[NDArray[np.int64], NDArray[np.int64]]]


def _lines_of_originals(folders: Sequence[Path], sources: Mapping[str, Source]) -> Lines:
    """The offsets of the records that others repeat, increasing, and their lines: (n,) int64 each, by file."""
    found: dict[str, array[int]] = {}
    for record in _unused(folders):
        if record["reason"].startswith(_REPEATS):
            name, offset = _parted(record["reason"].removeprefix(_REPEATS))
            if name in sources and offset is not None:
                found.setdefault(name, array("q")).append(offset)
    lines = {}
    for name, offsets in found.items():
        numbers, increasing = _numbers(sources[name]), np.unique(np.array(offsets, np.int64))
        lines[name] = increasing, np.fromiter((numbers.at(int(o)) for o in increasing), np.int64, len(increasing))
    return lines


def _with_line(reason: str, lines: Lines) -> str:
    """The reason with the line of the record that stays, if its file has lines."""
    name, offset = _parted(reason.removeprefix(_REPEATS))
    if name not in lines or offset is None:
        return reason
    offsets, numbers = lines[name]
    return f"{_REPEATS}line {numbers[np.searchsorted(offsets, offset)]} of {name}"
