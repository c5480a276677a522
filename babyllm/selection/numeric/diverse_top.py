"""The best records that are not alike (DEITA).

Liu et al. 2023, What Makes Good Data for Alignment?, section 2.5, "Repr Filter": records are read by descending score,
and one is kept if none of those kept so far is more similar to it than a threshold, until enough are kept. As there,
similarity is the cosine of two vectors.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from babyllm.errors import UserError
from babyllm.selection.numeric.vectors import F32, F64, Rows, Vectors

_BLOCK, _KEPT_AT_ONCE = 512, 4096
_UNIT = 2.0**-24


class DiverseTop(NamedTuple):
    """What was kept, and why the rest was not.

    Attributes:
        rows: (kept,) int64, rows that are kept, by descending score.
        like: (n,) int64, for a row that is too similar to kept ones the first of these, for a kept row itself, for
            others -1: the score is NaN, or enough was kept before.
        n_nan: number of rows whose score is not a number.
    """

    rows: Rows
    like: Rows
    n_nan: int


def diverse_top(values: NDArray[Any], scores: NDArray[Any], n: int, *, threshold: float = 0.9) -> DiverseTop:
    """Keep up to `n` records by descending score, none of which is more similar to a better one than the threshold.

    Of equal scores, the lowest row comes first. Cosines are float64 functions of two vectors, each divided by its
    length and rounded to float32, so the result is that of a plain comparison of pairs. Memory, besides the array, is
    the kept vectors as float32, 24 bytes a row, and blocks of a few MiB.

    Args:
        values: (rows, d) float32 or float16 array, which may be a memory map.
        scores: (rows,) scores, of which the highest are the best; NaN is never kept.
        n: largest number of records that are kept.
        threshold: largest cosine of two kept records, from -1 to 1.

    Raises:
        UserError: there are not as many scores as vectors; the threshold is not a cosine; a vector is not finite, too
            long or zero.
    """
    data, scores = Vectors(values, None, "cosine"), np.asarray(scores, np.float64)
    if scores.shape != (len(data),):
        raise UserError(f"{len(data):,} vectors and scores of shape {scores.shape}: there must be one score a vector")
    if not -1 <= threshold <= 1:
        raise UserError(f"threshold={threshold}: a cosine is from -1 to 1")
    order = np.argsort(-scores, kind="stable")  # NaN is last
    n_nan = int(np.isnan(scores).sum())
    order = order[: len(order) - n_nan]
    kept = _Kept(data.width, threshold)
    like = np.full(len(data), -1, np.int64)
    for begin in range(0, len(order), _BLOCK):
        if len(kept.rows) >= n:
            break
        rows = order[begin : begin + _BLOCK]
        like[rows] = kept.add(rows, data.take(rows), n)
    return DiverseTop(np.array(kept.rows, np.int64), like, n_nan)


class _Kept:
    """The kept vectors, in the order in which they were kept."""

    def __init__(self, width: int, threshold: float) -> None:
        self.rows: list[int] = []
        self._vectors = np.empty((_BLOCK, width), np.float32)
        self._threshold = threshold

    def add(self, rows: Rows, block: F32, n: int) -> Rows:
        """(m,) int64 `like` of the next (m,) rows with their (m, d) vectors, of which those that may stay are kept."""
        like = self._like_kept(block)
        left = np.flatnonzero(like < 0)
        above = _above(block[left], block[left], self._threshold)
        first, mine = len(self.rows), np.zeros(len(left), bool)
        for i, place in enumerate(left):
            if len(self.rows) == n:
                break
            alike = np.flatnonzero(above[i] & mine)
            if len(alike):
                like[place] = rows[left[alike[0]]]
            else:
                mine[i] = True
                like[place] = rows[place]
                self.rows.append(int(rows[place]))
        while len(self.rows) > len(self._vectors):
            self._vectors = np.concatenate([self._vectors, np.empty_like(self._vectors)])
        self._vectors[first : len(self.rows)] = block[left[mine]]
        return like

    def _like_kept(self, block: F32) -> Rows:
        """(m,) int64, the first of the kept rows that is too similar to each vector, or -1."""
        like = np.full(len(block), -1, np.int64)
        kept = self._vectors[: len(self.rows)]
        for begin in range(0, len(kept), _KEPT_AT_ONCE):
            left = np.flatnonzero(like < 0)
            above = _above(block[left], kept[begin : begin + _KEPT_AT_ONCE], self._threshold)
            found = above.any(axis=1)
            like[left[found]] = np.array(self.rows, np.int64)[begin + above[found].argmax(axis=1)]
        return like


def _above(a: F32, b: F32, threshold: float) -> NDArray[np.bool_]:
    """(m, p) bool, whether the cosine of two directions, of `a` (m, d) and `b` (p, d), is above the threshold."""
    products = a @ b.T
    slack = (a.shape[1] + 8) * _UNIT  # Higham 2002, section 3.1, for vectors of length 1
    above: NDArray[np.bool_] = products > threshold
    rows, columns = np.nonzero(np.abs(products - np.float32(threshold)) <= slack)
    above[rows, columns] = _cosines(a, b, rows, columns) > threshold
    return above


def _cosines(a: F32, b: F32, rows: Rows, columns: Rows) -> F64:
    """(q,) float64 cosines, at most 1, of `a[rows]` with `b[columns]`, some at a time."""
    at_once, cosines = max(1, (1 << 18) // a.shape[1]), np.empty(len(rows))
    for begin in range(0, len(rows), at_once):
        some = slice(begin, begin + at_once)
        cosines[some] = (a[rows[some]].astype(np.float64) * b[columns[some]]).sum(axis=1)
    return np.minimum(cosines, 1)
