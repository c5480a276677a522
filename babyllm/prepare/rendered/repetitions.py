"""Records that repeat an earlier one exactly: found over all partitions before anything is rendered.

keys -> ranges of them, each sorted by itself -> for each partition: the records that repeat another one, and which

Of equal records the first one stays, in the order of the files; one of a held-out file stays before any of the others.
The result depends on the files alone. The memory is that of `RANGE` records, and 16 bytes for each one that is found.
"""

from __future__ import annotations

import json
from collections.abc import Container, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from babyllm.prepare.rendered.record_keys import ALL_KEYS, KEY, KEYS, PLACES, Keys
from babyllm.ragged import offsets_of
from babyllm.text.readers import Partition, key_of

REPEAT = np.dtype([("record", "<i8"), ("partition", "<i8"), ("first", "<i8")])
RANGE = 1 << 19
HALF, MASK = np.uint64(32), np.uint64(0xFFFFFFFF)
APART = np.int64(1) << np.int64(62)  # added to the numbers of records outside held-out files, so that these come first


def write_repetitions(
    keys: Keys, partitions: Sequence[Partition], apart: Container[str], cuts: Mapping[str, int], directory: Path
) -> None:
    """Find the records that repeat another one, and write them for `repeats_of`.

    Args:
        keys: keys of all records.
        partitions: partitions that they are from.
        apart: names of the held-out files.
        cuts: limit of each file; its records are read if the first halves of their keys are below it.
        directory: directory of the result, that of the keys.
    """
    firsts = offsets_of(np.array([sum(n for _, n in spans) for spans in keys.spans], np.int64))
    pairs = _repeats(keys, firsts, apart, cuts)
    ends = np.searchsorted(pairs, firsts.astype(np.uint64) << HALF)
    for index, partition in enumerate(partitions):
        mine = pairs[ends[index] : ends[index + 1]]
        originals = (mine & MASK).astype(np.int64)
        found = np.empty(len(mine), REPEAT)
        found["record"] = (mine >> HALF).astype(np.int64) - firsts[index]
        found["partition"] = np.searchsorted(firsts, originals, side="right") - 1
        found["first"] = originals - firsts[found["partition"]]
        np.save(directory / f"{key_of([partition])}.npy", found)


def repeats_of(directory: Path | None, partition: Partition) -> dict[int, str]:
    """The numbers of a partition's usable records that repeat another one, each with the place of that one.

    Args:
        directory: directory of `write_repetitions`; None if repetitions are kept.
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


def _repeats(
    keys: Keys, firsts: NDArray[np.int64], apart: Container[str], cuts: Mapping[str, int]
) -> NDArray[np.uint64]:
    """(n,) uint64, increasing: the number of each record that repeats another one, then that of the one that stays.

    They are the upper and the lower half. The records of a partition are numbered from its entry of `firsts`.
    """
    assert firsts[-1] <= MASK, "too many records"
    bits = (int(firsts[-1]) // RANGE).bit_length()
    repeats = []
    for part in range(1 << bits):
        pieces = [_in_range(keys, i, part, bits, apart, cuts) for i in range(len(keys.spans))]
        high, low = (np.concatenate([piece[column] for piece in pieces]) for column in (0, 1))
        order = np.concatenate([piece[2] + first for piece, first in zip(pieces, firsts, strict=False)])
        by_key = np.lexsort((order, low, high))
        high, low, order = high[by_key], low[by_key], order[by_key]
        is_new = np.ones(len(high), bool)
        is_new[1:] = (high[1:] != high[:-1]) | (low[1:] != low[:-1])
        first = np.maximum.accumulate(np.where(is_new, np.arange(len(high)), 0))
        numbers = (order & ~APART).astype(np.uint64)
        repeats.append((numbers[~is_new] << HALF) | numbers[first[~is_new]])
    found = np.concatenate(repeats)
    found.sort()
    return found


def _in_range(
    keys: Keys, partition: int, part: int, bits: int, apart: Container[str], cuts: Mapping[str, int]
) -> tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.int64]]:
    """The halves of a partition's keys in one of 2^bits ranges, and the numbers of their records, as `APART` orders.

    Records that are not read are left out.
    """
    rows, spans = keys.rows(partition), keys.spans[partition]
    here = np.flatnonzero((rows["high"] >> np.uint64(64 - bits)) == part) if bits else np.arange(len(rows))
    span = np.searchsorted(np.cumsum([n for _, n in spans]), here, side="right")
    if any(cuts[file] < ALL_KEYS for file, _ in spans):
        last = np.array([cuts[file] - 1 for file, _ in spans], np.uint64)
        is_read = rows["high"][here] <= last[span]
        here, span = here[is_read], span[is_read]
    order = np.where(np.array([file in apart for file, _ in spans])[span], 0, APART)
    found = rows[here]
    return found["high"], found["low"], here + order
