"""The kept records in memory: their ids, their sets of shingles, and the table that finds them."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from babyllm.text.dedup.online.band_table import BandTable
from babyllm.text.dedup.online.sketches import Sketch

MOST_COMPARED = 64  # most candidates that a text is compared with: those that share the most keys


class Match(NamedTuple):
    """The kept record that a text duplicates.

    Attributes:
        id: ID of the kept record.
        similarity: Jaccard similarity of the two texts' shingles; 1.0 for texts that differ only in what is folded.
    """

    id: str
    similarity: float


class Kept:
    """Records in memory, of which each has 4 bytes per distinct shingle, its id and its entries in the table.

    Args:
        n_tables: number of keys of a record.
        threshold: least similarity of near-duplicates.
    """

    def __init__(self, n_tables: int, threshold: float) -> None:
        self._threshold = threshold
        self._table = BandTable(n_tables)
        self._ids: list[str] = []
        self._sets, self._ends = np.empty(1024, np.uint32), array("Q", [0])

    def __len__(self) -> int:
        return len(self._ids)

    def find(self, sketches: Sequence[Sketch]) -> Match | None:
        """The kept record that a text duplicates: the most similar one, of equally similar ones that kept first.

        Args:
            sketches: sketches of the text.
        """
        best = None
        for sketch in sketches:
            for number in most_shared(self._table.candidates(sketch.keys)):
                shingles = self._sets[self._ends[number] : self._ends[number + 1]]
                best = better(best, self._ids[number], jaccard(sketch.shingles, shingles, self._threshold))
        return best if best and best.similarity >= self._threshold else None

    def append(self, id: str, sketch: Sketch) -> None:
        """Store a record by its own sketch, without comparing it."""
        end = self._ends[-1] + len(sketch.shingles)
        if end > len(self._sets):
            room = np.empty(max(end, len(self._sets) * 3 // 2), np.uint32)  # room takes no memory until it is used
            room[: self._ends[-1]] = self._sets[: self._ends[-1]]
            self._sets = room
        self._sets[self._ends[-1] : end] = sketch.shingles
        self._table.append(sketch.keys)
        self._ids.append(id)
        self._ends.append(end)

    def remove_last(self, sketch: Sketch) -> None:
        """Remove the newest record, whose own sketch this is."""
        self._table.remove_last(sketch.keys)
        self._ids.pop()
        self._ends.pop()


def better(best: Match | None, id: str, similarity: float) -> Match:
    """The more similar of a match and a record kept after it; the match if both are equally similar."""
    return best if best and best.similarity >= similarity else Match(id, similarity)


def most_shared(shared: Counter[int]) -> list[int]:
    """The numbers of the records that share the most keys, at most `MOST_COMPARED`, in ascending order.

    Args:
        shared: the number of keys that each record shares.
    """
    if len(shared) <= MOST_COMPARED:
        return sorted(shared)
    return sorted(number for number, _ in shared.most_common(MOST_COMPARED))


def jaccard(a: NDArray[np.uint32], b: NDArray[np.uint32], threshold: float) -> float:
    """The Jaccard similarity of two sets, each distinct and ascending; 0 if their sizes rule the threshold out."""
    if min(len(a), len(b)) < threshold * max(len(a), len(b)):
        return 0.0
    common = int(np.count_nonzero(a.take(a.searchsorted(b), mode="clip") == b))
    return common / (len(a) + len(b) - common)
