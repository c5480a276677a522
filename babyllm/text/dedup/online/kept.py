"""The kept records in memory: their ids, their sets of shingles, and the table that finds them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from babyllm.ragged import Ragged, offsets_of, take
from babyllm.text.dedup.online.band_table import BandTable
from babyllm.text.dedup.online.growing import Growing
from babyllm.text.dedup.online.sketches import Sketches

MOST_COMPARED = 64  # most candidates of a sketch that are compared: those that share the most keys


class Match(NamedTuple):
    """The kept record that a text duplicates.

    Attributes:
        id: ID of the kept record.
        similarity: Jaccard similarity of the two texts' shingles; 1.0 for texts that differ only in what is folded.
    """

    id: str
    similarity: float


class Records(NamedTuple):
    """Records to store.

    Attributes:
        ids: (records,) ids in UTF-8.
        sets: distinct shingles (uint32, ascending) of each record.
        n: (records,) uint32 tokens of a shingle of each record.
        keys: (records, tables) uint32 keys.
    """

    ids: Sequence[bytes]
    sets: Ragged
    n: NDArray[np.uint32]
    keys: NDArray[np.uint32]


class Kept:
    """Records in memory, of which each has 4 bytes per distinct shingle, its id and its entries in the tables.

    Args:
        n_tables: number of keys of a record.
        threshold: least similarity of near-duplicates.
    """

    def __init__(self, n_tables: int, threshold: float) -> None:
        self._threshold = threshold
        self._table = BandTable(n_tables)
        self._ids, self._id_ends = bytearray(), Growing((), np.int64)
        self._sets, self._set_ends = Growing((), np.uint32), Growing((), np.int64)
        self._id_ends.append(np.zeros(1, np.int64))
        self._set_ends.append(np.zeros(1, np.int64))

    def __len__(self) -> int:
        return len(self._id_ends) - 1

    def append(self, records: Records) -> None:
        """Store records without comparing them."""
        self._table.append(records.keys)
        ends = offsets_of(np.array([len(name) for name in records.ids], np.int64))[1:]
        self._id_ends.append(ends + len(self._ids))
        self._ids += b"".join(records.ids)
        self._set_ends.append(records.sets.offsets[1:] + len(self._sets))
        self._sets.append(records.sets.values)

    def best(self, sketches: Sketches, n_texts: int) -> list[Match | None]:
        """The most similar kept record of each text, None where no kept one reaches the threshold."""
        row, number = most_shared(*self._table.candidates(sketches.keys), len(self))
        ends = self._set_ends.values
        sizes, others = sketches.sets.lengths()[row], ends[number + 1] - ends[number]
        alike = np.minimum(sizes, others) >= self._threshold * np.maximum(sizes, others)  # else sizes rule it out
        row, number = row[alike], number[alike]
        sets = take(Ragged(self._sets.values, ends), number)
        return best_of(
            sketches, row, np.arange(len(row)), sets, lambda i: self._id(number[i]), self._threshold, n_texts
        )

    def _id(self, number: np.int64) -> bytes:
        ends = self._id_ends.values
        return bytes(self._ids[ends[number] : ends[number + 1]])


def best_of(
    sketches: Sketches,
    row: NDArray[np.int64],
    place: NDArray[np.int64],
    others: Ragged,
    id_of: Callable[[int], bytes],
    threshold: float,
    n_texts: int,
) -> list[Match | None]:
    """The most similar record of each text among the candidates; of equally similar ones, that kept first.

    Args:
        sketches: sketches of the texts.
        row: (pairs,) sketch of each pair.
        place: (pairs,) index in `others` of each pair's record; records kept earlier come first.
        others: sets of shingles (uint32) of records.
        id_of: function from an index in `others` to the id of that record, in UTF-8.
        threshold: least similarity of a match.
        n_texts: number of texts.
    """
    similarity = jaccard(sketches.sets, row, take(others, place))
    matches: list[Match | None] = [None] * n_texts
    reached = np.flatnonzero(similarity >= threshold)
    for i in reached[np.lexsort((-place[reached], similarity[reached]))].tolist():  # the best one comes last
        name = id_of(int(place[i])).decode("utf-8", "surrogatepass")
        matches[sketches.text[row[i]]] = Match(name, float(similarity[i]))
    return matches


def most_shared(
    rows: NDArray[np.int64], numbers: NDArray[np.int64], n_numbers: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For each row the records that share the most keys with it, at most `MOST_COMPARED`.

    Args:
        rows: (found,) row of each candidate.
        numbers: (found,) its number; a candidate is named once for each key that it shares.
        n_numbers: limit of the numbers.

    Returns:
        (pairs,) int64 rows and (pairs,) int64 numbers, each pair once.
    """
    pairs, shared = np.unique(rows * n_numbers + numbers, return_counts=True)
    row, number = np.divmod(pairs, max(n_numbers, 1))
    if len(pairs) <= MOST_COMPARED:
        return row, number
    order = np.lexsort((-number, -shared, row))
    row, number = row[order], number[order]
    starts = np.flatnonzero(np.diff(row, prepend=-1))
    rank = np.arange(len(row)) - np.repeat(starts, np.diff(np.append(starts, len(row))))
    return row[rank < MOST_COMPARED], number[rank < MOST_COMPARED]


def jaccard(sets: Ragged, row: NDArray[np.int64], others: Ragged) -> NDArray[np.float64]:
    """(pairs,) float64 Jaccard similarity of pairs of sets.

    Args:
        sets: distinct ascending uint32 values of each row.
        row: (pairs,) index of the first set of each pair.
        others: distinct uint32 values of the second set of each pair.
    """
    if not len(row):
        return np.empty(0)
    owner = np.repeat(np.arange(len(sets.offsets) - 1, dtype=np.uint64), sets.lengths())
    known = (owner << np.uint64(32)) | sets.values  # ascending
    wanted = (np.repeat(row.astype(np.uint64), others.lengths()) << np.uint64(32)) | others.values
    place = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
    common = np.add.reduceat((known[place] == wanted).astype(np.int64), others.offsets[:-1])
    result: NDArray[np.float64] = common / (sets.lengths()[row] + others.lengths() - common)
    return result
