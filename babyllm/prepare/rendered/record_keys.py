"""A 16-byte key of every record, on disk: for finding repetitions, and for drawing a number of records by a hash.

partition -> the key and the place of each record, one process each -> Keys -> cuts: the part of each data set that is
read
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from babyllm.chat.registry.data_set import DataSet
from babyllm.documents import exact_key
from babyllm.pipeline.partitions import WorkConfig, run_partitions
from babyllm.text.readers import Partition

Records = Callable[[Partition], Iterator[tuple[str, str]]]
"""A function that returns, for each usable record of a partition, its place and a text that only equal records share.

A place is the record's file and, after a colon, a number."""
KEYS, PLACES = "keys.bin", "places.json"
KEY = np.dtype([("high", "<u8"), ("low", "<u8"), ("file", "<u4"), ("at", "<i8")])
ALL_KEYS = 1 << 64
"""A number greater than the first half of every key."""


class Span(NamedTuple):
    """The records of a file in a partition: the name of the file, and their number."""

    file: str
    n: int


class Keys(NamedTuple):
    """The keys of all records.

    Attributes:
        folders: a folder for each partition, with `KEYS` and `PLACES`.
        spans: the records of each partition, by file.
    """

    folders: list[Path]
    spans: list[list[Span]]

    def rows(self, partition: int) -> NDArray[Any]:
        """(n,) `KEY`, the records of a partition in order, mapped rather than loaded."""
        file = self.folders[partition] / KEYS
        return np.memmap(file, KEY, "r") if file.stat().st_size else np.empty(0, KEY)  # an empty file cannot be mapped


def half_key(text: str) -> int:
    """The first half of the key of a record, below 2^64; `text` is what only equal records share."""
    return int.from_bytes(exact_key(text)[:8], "big")


def write_keys(
    partitions: Sequence[Partition], records: Records, directory: Path, *, key: Any, work: WorkConfig
) -> Keys:
    """Write the keys of all records.

    Args:
        partitions: partitions of all files, which are read for it.
        records: what is read from a partition.
        directory: directory of the result.
        key: JSON value that changes when the input does.
        work: number of processes.
    """
    counts = run_partitions(
        partitions,
        partial(_write, records=records),
        directory,
        key=[key, "keys"],
        work=work,
        sizes=[partition.size_bytes for partition in partitions],
        title="keys",
    )
    folders = [directory / f"{index:05d}" for index in range(len(partitions))]
    return Keys(folders, [[Span(*span) for span in spans] for spans in counts])


def cuts_of(keys: Keys | None, files: dict[str, int], data: Sequence[DataSet]) -> tuple[int, ...]:
    """For each data set the number that the first halves of its records' keys are below, if they are read.

    A share is that of all possible keys; a limit counts different records. A smaller one is thus a part of a larger
    one, wherever the records are and whatever else is read.

    Args:
        keys: keys of all records; may be None if no data set is sampled.
        files: index in `data` of each file.
        data: data sets.
    """
    cuts = [ALL_KEYS if one.share >= 1 else math.ceil(one.share * ALL_KEYS) for one in data]
    for index, one in enumerate(data):
        if one.limit is not None and keys is not None:
            cuts[index] = min(cuts[index], _cut(keys, files, index, one.limit))
    return tuple(cuts)


def _cut(keys: Keys, files: dict[str, int], index: int, limit: int) -> int:
    """The number that the first halves of the `limit` smallest different keys of a data set are below."""
    halves = np.empty(sum(n for spans in keys.spans for file, n in spans if files[file] == index), np.uint64)
    end = 0
    for partition, spans in enumerate(keys.spans):
        rows, begin = keys.rows(partition), 0
        for file, n in spans:
            if files[file] == index:
                halves[end : end + n] = rows["high"][begin : begin + n]
                end += n
            begin += n
    halves.sort()
    is_new = np.ones(len(halves), bool)
    is_new[1:] = halves[1:] != halves[:-1]
    if np.count_nonzero(is_new) <= limit:
        return ALL_KEYS
    return int(halves[np.searchsorted(np.cumsum(is_new), limit + 1)])


def _write(partition: Partition, folder: Path, *, records: Records) -> list[Span]:
    names: dict[str, int] = {}
    spans: list[Span] = []
    with (folder / KEYS).open("wb") as file:
        for source in partition.sources:
            found = _rows(records(Partition((source,), source.size_bytes)), names)
            n = 0
            while len(rows := np.array(list(islice(found, 1 << 14)), KEY)):
                file.write(rows.tobytes())
                n += len(rows)
            spans.append(Span(source.name, n))
    (folder / PLACES).write_text(json.dumps(list(names), ensure_ascii=False), encoding="utf-8")
    return spans


def _rows(records: Iterator[tuple[str, str]], names: dict[str, int]) -> Iterator[tuple[int, int, int, int]]:
    for place, text in records:
        name, _, at = place.rpartition(":")
        key = exact_key(text)
        high, low = int.from_bytes(key[:8], "big"), int.from_bytes(key[8:], "big")
        yield high, low, names.setdefault(name, len(names)), int(at)
