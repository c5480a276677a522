"""Records that repeat an earlier one exactly: found over all partitions before anything is rendered.

partition -> a 16-byte key of each record, one process each -> ranges of keys, each sorted by itself
          -> for each partition: the records that repeat another one, and which

Of equal records the first one stays, in the order of the files; one of a held-out file stays before any of the others.
The result depends on the files alone. Apart from what is found, the memory is that of `RANGE` records.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from babyllm.documents import exact_key
from babyllm.pipeline.partitions import WorkConfig, run_partitions
from babyllm.ragged import offsets_of
from babyllm.text.readers import Partition, key_of

Records = Callable[[Partition], Iterator[tuple[str, str]]]
"""A function that returns, for each usable record of a partition, its place and a text that only equal records share.

A place is the record's file and, after a colon, a number."""
KEYS, PLACES = "keys.bin", "places.json"
KEY = np.dtype([("high", "<u8"), ("low", "<u8"), ("file", "<u4"), ("at", "<i8")])
REPEAT = np.dtype([("record", "<i8"), ("partition", "<i8"), ("first", "<i8")])
RANGE = 1 << 20
APART = np.int64(1) << np.int64(62)  # added to the numbers of records outside held-out files, so that these come first


def find_repetitions(
    partitions: Sequence[Partition],
    records: Records,
    apart: Sequence[str],
    directory: Path,
    *,
    key: Any,
    work: WorkConfig,
) -> None:
    """Find the records that repeat another one, for `repeats_of`.

    Args:
        partitions: partitions of all files, which are read for it.
        records: what is read from a partition.
        apart: names of the held-out files.
        directory: directory of the result.
        key: JSON value that changes when the input does.
        work: number of processes.
    """
    counts: list[list[list[Any]]] = run_partitions(
        partitions,
        partial(_write_keys, records=records),
        directory,
        key=[key, "repetitions"],
        workers=work.workers,
        sizes=[partition.size_bytes for partition in partitions],
        title="repetitions",
    )
    files = [directory / f"{index:05d}" / KEYS for index in range(len(partitions))]
    is_apart = [[(name in set(apart), n) for name, n in sources] for sources in counts]
    firsts = offsets_of(np.array([sum(n for _, n in sources) for sources in counts], np.int64))
    repeats, originals = _repeats(files, is_apart, firsts)
    ends = np.searchsorted(repeats, firsts)
    for index, partition in enumerate(partitions):
        here = slice(ends[index], ends[index + 1])
        found = np.empty(here.stop - here.start, REPEAT)
        found["record"] = repeats[here] - firsts[index]
        found["partition"] = np.searchsorted(firsts, originals[here], side="right") - 1
        found["first"] = originals[here] - firsts[found["partition"]]
        np.save(directory / f"{key_of([partition])}.npy", found)


def repeats_of(directory: Path | None, partition: Partition) -> dict[int, str]:
    """The numbers of a partition's usable records that repeat another one, each with the place of that one.

    Args:
        directory: directory of `find_repetitions`; None if repetitions are kept.
        partition: one of its partitions.
    """
    if directory is None:
        return {}
    found = np.load(directory / f"{key_of([partition])}.npy")
    places: dict[int, str] = {}
    for index in np.unique(found["partition"]).tolist():
        folder = directory / f"{index:05d}"
        names = json.loads((folder / PLACES).read_text(encoding="utf-8"))
        mine = found[found["partition"] == index]
        originals = np.memmap(folder / KEYS, KEY, "r")[mine["first"]]
        for record, file, at in zip(mine["record"], originals["file"], originals["at"], strict=True):
            places[int(record)] = f"{names[int(file)]}:{int(at)}"
    return places


def _write_keys(partition: Partition, folder: Path, *, records: Records) -> list[list[Any]]:
    """Write the key and the place of each record; returns the name of each source with its number of records."""
    names: dict[str, int] = {}
    counts: list[list[Any]] = []
    with (folder / KEYS).open("wb") as file:
        for source in partition.sources:
            found = _rows(records(Partition((source,), source.size_bytes)), names)
            n = 0
            while len(rows := np.array(list(islice(found, 1 << 14)), KEY)):
                file.write(rows.tobytes())
                n += len(rows)
            counts.append([source.name, n])
    (folder / PLACES).write_text(json.dumps(list(names), ensure_ascii=False), encoding="utf-8")
    return counts


def _rows(records: Iterator[tuple[str, str]], names: dict[str, int]) -> Iterator[tuple[int, int, int, int]]:
    for place, text in records:
        name, _, at = place.rpartition(":")
        key = exact_key(text)
        high, low = int.from_bytes(key[:8], "big"), int.from_bytes(key[8:], "big")
        yield high, low, names.setdefault(name, len(names)), int(at)


def _repeats(
    files: Sequence[Path], is_apart: Sequence[Sequence[tuple[bool, int]]], firsts: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The numbers of the records that repeat another one, increasing, and the numbers of those that stay: (n,) int64.

    Records are numbered over all files, beginning at (F + 1,) `firsts`.
    """
    bits = max(0, (int(firsts[-1]) // RANGE).bit_length())
    repeats, originals = [], []
    for part in range(1 << bits):
        pieces = [
            _in_range(file, apart, int(first), part, bits)
            for file, apart, first in zip(files, is_apart, firsts, strict=False)
        ]
        high, low, order = (np.concatenate(column) for column in zip(*pieces, strict=True))
        by_key = np.lexsort((order, low, high))
        high, low, order = high[by_key], low[by_key], order[by_key]
        is_new = np.ones(len(high), bool)
        is_new[1:] = (high[1:] != high[:-1]) | (low[1:] != low[:-1])
        first = np.maximum.accumulate(np.where(is_new, np.arange(len(high)), 0))
        numbers = order & ~APART
        repeats.append(numbers[~is_new])
        originals.append(numbers[first[~is_new]])
    found, stay = np.concatenate(repeats), np.concatenate(originals)
    by_number = np.argsort(found)
    return found[by_number], stay[by_number]


def _in_range(
    file: Path, is_apart: Sequence[tuple[bool, int]], first: int, part: int, bits: int
) -> tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.int64]]:
    """The halves of the keys of a file in one of 2^bits ranges, and the numbers of their records, as `APART` orders."""
    if not file.stat().st_size:  # an empty file cannot be mapped
        return np.empty(0, np.uint64), np.empty(0, np.uint64), np.empty(0, np.int64)
    rows = np.memmap(file, KEY, "r")
    here = np.flatnonzero((rows["high"] >> np.uint64(64 - bits)) == part) if bits else np.arange(len(rows))
    ends = np.cumsum([n for _, n in is_apart])
    flags = np.array([flag for flag, _ in is_apart])[np.searchsorted(ends, here, side="right")]
    found = rows[here]
    return found["high"], found["low"], here + first + np.where(flags, 0, APART)
