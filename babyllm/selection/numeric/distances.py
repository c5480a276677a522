"""Squared Euclidean distances that do not depend on how vectors are cut into blocks.

A matrix product is fast, but its last bits depend on the shape of the block, the processor and the number of threads.
So a product in float32 only shows which pairs may be nearest, within a bound on its rounding errors (Higham 2002,
Accuracy and Stability of Numerical Algorithms, section 3.1). The distances of those pairs, a few of all, are then
computed in float64, each as a function of its two vectors alone: equal vectors have equal distances, and whoever
compares distances plainly finds the same ones, to the last bit.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from babyllm.selection.numeric.vectors import F32, F64, Rows

CENTRES_AT_ONCE = 512  # with 512 rows, a product of 1 MiB
ROWS_AT_ONCE = 512
_UNIT = 2.0**-24  # rounding error of float32, relative
_SMALLEST = 2.0**-126  # what a flush of small numbers to zero loses at most
_VALUES_AT_ONCE = 1 << 18  # of vectors that are compared in float64


class Side(NamedTuple):
    """Vectors with what their products need.

    Attributes:
        vectors: (n, d) float32.
        shifted: (n, d) float32, the vectors minus a common origin. Near the mean of all, their lengths, on which the
            bound depends, are about as large as the distances.
        squares: (n,) float32, squared lengths of the shifted vectors.
    """

    vectors: F32
    shifted: F32
    squares: F32

    def part(self, rows: slice | NDArray[np.int64]) -> Side:
        """Some of the vectors."""
        return Side(*(column[rows] for column in self))


def side(vectors: F32, origin: F32) -> Side:
    """Vectors, (n, d) float32, with what their products need; all that are compared have one (d,) float32 origin."""
    shifted = vectors - origin
    return Side(vectors, shifted, np.einsum("nd,nd->n", shifted, shifted))


def squared(a: F32, b: F32) -> F64:
    """(m,) float64, the squared distance of each row of `a` to that of `b`, (m, d) float32 both, or one row (d,)."""
    differences = np.subtract(a, b, dtype=np.float64)
    differences *= differences
    return np.asarray(differences.sum(axis=1))


def squared_pairs(a: F32, b: F32, rows: Rows, columns: Rows) -> F64:
    """(m,) float64, the squared distances of `a[rows]` to `b[columns]`, some at a time."""
    at_once, distances = max(1, _VALUES_AT_ONCE // a.shape[1]), np.empty(len(rows))
    for begin in range(0, len(rows), at_once):
        some = slice(begin, begin + at_once)
        distances[some] = squared(a[rows[some]], b[columns[some]])
    return distances


def approximate(rows: Side, centres: Side) -> tuple[F32, F32]:
    """(m, p) float32 squared distances of rows to centres, and (m,) float32 bounds on their errors."""
    products: F32 = rows.shifted @ centres.shifted.T
    products *= -2
    products += rows.squares[:, None]
    products += centres.squares
    longest = np.sqrt(rows.squares) + np.sqrt(centres.squares.max(initial=0))
    factor = (rows.vectors.shape[1] + 16) * _UNIT
    slack = factor * longest * longest + np.float32(factor * _SMALLEST / _UNIT)
    return products, slack


def nearest(rows: Side, centres: Side, limits: F64 | None = None) -> tuple[Rows, F64]:
    """The nearest of the centres to each row, if it is nearer than the row's limit.

    Args:
        rows: m vectors.
        centres: p vectors of the same width.
        limits: (m,) float64 squared distances; only a smaller one counts. None for no limits.

    Returns:
        (m,) int64 number of the nearest centre, the lowest one of several, -1 where none is nearer than the limit;
        (m,) float64 squared distance to it, or the limit.
    """
    n = len(rows.vectors)
    best = np.full(n, np.inf) if limits is None else limits.astype(np.float64)
    found = np.full(n, -1, np.int64)
    for first in range(0, len(centres.vectors), CENTRES_AT_ONCE):
        some = centres.part(slice(first, first + CENTRES_AT_ONCE))
        for begin in range(0, n, ROWS_AT_ONCE):
            here = slice(begin, begin + ROWS_AT_ONCE)
            _lower(rows.part(here), some, first, best[here], found[here])
    return found, best


def _lower(rows: Side, centres: Side, first: int, best: F64, found: Rows) -> None:
    """Put nearer centres, whose numbers begin at `first`, into `best` and `found`."""
    products, slack = approximate(rows, centres)
    smallest = products.min(axis=1)
    open_rows = np.flatnonzero((smallest - slack < best) & (best > 0))
    reach = smallest[open_rows].astype(np.float64) + 2 * slack[open_rows]
    reach = np.minimum(reach, best[open_rows] + slack[open_rows])
    which, columns = np.nonzero(products[open_rows] <= reach[:, None])
    places = open_rows[which]
    distances = squared_pairs(rows.vectors, centres.vectors, places, columns)
    _keep_lowest(places, columns + first, distances, best, found)


def _keep_lowest(row: Rows, centre: Rows, distance: F64, best: F64, found: Rows) -> None:
    """Put the least distance of each row, rows ascending, into `best`, and the lowest centre with it into `found`."""
    if (row[1:] == row[:-1]).any():
        order = np.lexsort((centre, distance, row))
        heads = order[np.flatnonzero(np.diff(row[order], prepend=-1))]
        row, centre, distance = row[heads], centre[heads], distance[heads]
    nearer = distance < best[row]
    best[row[nearer]] = distance[nearer]
    found[row[nearer]] = centre[nearer]
