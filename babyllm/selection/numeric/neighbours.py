"""Exact nearest neighbours, and weights of records by how dense their surroundings are.

A record in a dense region stands for much that others say too. Weights make up for that (1 over the size of a cluster,
the mean distance to the nearest neighbours) or, for records chosen by k-center, stand for what was not chosen.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from babyllm.errors import UserError
from babyllm.selection.numeric.distances import CENTRES_AT_ONCE, Side, approximate, side, squared_pairs
from babyllm.selection.numeric.k_means import assign
from babyllm.selection.numeric.vectors import F64, Metric, Rows, Vectors

_ROWS = 512
_MANY = 2  # pairs for each neighbour, above which only the nearest in a block are compared exactly


class Neighbours(NamedTuple):
    """The nearest other vectors of each vector, the nearest first.

    Attributes:
        rows: (n, k) int64, their rows in the array.
        distances: (n, k) float64, their distances; with the metric cosine, one minus the cosine.
    """

    rows: Rows
    distances: F64


def neighbours(
    values: NDArray[Any], k: int, *, metric: Metric = "euclidean", among: NDArray[Any] | None = None
) -> Neighbours:
    """The `k` nearest other vectors of each vector, by comparing all pairs; of equally near ones the lowest rows.

    Distances are float64 functions of two vectors, as in `distances`. The work is n * n * d products and sums; memory,
    besides the array, is the result and blocks of a few MiB.

    Args:
        values: (all, d) float32 or float16 array, which may be a memory map.
        k: number of neighbours, from 1 to the number of vectors minus one.
        metric: euclidean or cosine.
        among: (n,) ascending rows that count, as vectors and as neighbours; None for all.

    Raises:
        UserError: `k` is below 1 or there are too few vectors; a vector is not finite, too long or, for the cosine,
            zero.
    """
    data = Vectors(values, among, metric)
    if not 1 <= k < len(data):
        raise UserError(f"k={k:,}: {len(data):,} vectors have from 1 to {len(data) - 1:,} neighbours each")
    rows, squares = np.empty((len(data), k), np.int64), np.empty((len(data), k))
    for begin in range(0, len(data), _ROWS):
        places = np.arange(begin, min(begin + _ROWS, len(data)))
        rows[places], squares[places] = _of_block(data, places, k)
    return Neighbours(data.rows(rows), squares / 2 if metric == "cosine" else np.sqrt(squares))


def _of_block(data: Vectors, places: Rows, k: int) -> tuple[Rows, F64]:
    """(m, k) int64 places and float64 squared distances of the nearest others of some vectors."""
    block = side(data.take(places), data.mean)
    found, best = np.full((len(places), k), -1, np.int64), np.full((len(places), k), np.inf)
    for where, others in data.blocks():
        for begin in range(0, len(others), CENTRES_AT_ONCE):
            some = side(others[begin : begin + CENTRES_AT_ONCE], data.mean)
            _insert(block, some, places, where.start + begin, found, best)
    return found, best


def _insert(block: Side, others: Side, places: Rows, first: int, found: Rows, best: F64) -> None:
    """Put nearer ones of the others, whose places begin at `first`, into (m, k) `found` and `best`."""
    products, slack = approximate(block, others)
    own = places - first
    inside = np.flatnonzero((own >= 0) & (own < len(others.vectors)))
    products[inside, own[inside]] = np.inf
    k = best.shape[1]
    near = products <= (best[:, -1] + slack)[:, None]
    if np.count_nonzero(near) > _MANY * k * len(best) and products.shape[1] > k:
        near &= products <= (np.partition(products, k - 1, axis=1)[:, k - 1] + 2.0 * slack)[:, None]
    near[inside, own[inside]] = False
    rows, columns = np.nonzero(near)
    distances = squared_pairs(block.vectors, others.vectors, rows, columns)
    m = len(best)
    all_rows = np.concatenate([np.repeat(np.arange(m), k), rows])
    all_places = np.concatenate([found.ravel(), columns + first])
    all_distances = np.concatenate([best.ravel(), distances])
    order = np.lexsort((all_places, all_distances, all_rows))
    starts = np.searchsorted(all_rows[order], np.arange(m))
    heads = order[starts[:, None] + np.arange(k)]
    found[:], best[:] = all_places[heads], all_distances[heads]


def served(values: NDArray[Any], centres: NDArray[Any], *, metric: Metric = "euclidean") -> Rows:
    """(n,) int64, the number of the nearest centre to each vector, the first one of several.

    Args:
        values: (n, d) float32 or float16 array, which may be a memory map.
        centres: (k,) rows of the centres, such as those of `k_center`.
        metric: euclidean or cosine.

    Raises:
        UserError: there is no centre, or its row is not one of the array; a vector has no distance.
    """
    data = Vectors(values, None, metric)
    if not len(centres):
        raise UserError("centres: name at least one row")
    return assign(data, data.take(data.places(centres, "centres")))[0]


def cluster_weights(labels: Rows) -> F64:
    """(n,) float64 weights of n vectors by (n,) int64 cluster numbers: 1 over the cluster's size, of mean 1."""
    return _of_mean_1(1 / np.bincount(labels)[labels])


def served_weights(labels: Rows, k: int) -> F64:
    """(k,) float64 weights of k centres: the number of vectors to which each is the nearest, of mean 1.

    Args:
        labels: (n,) int64 numbers of the nearest centres, from `served`.
        k: number of centres.
    """
    return _of_mean_1(np.bincount(labels, minlength=k).astype(np.float64))


def neighbour_weights(distances: F64) -> F64:
    """(n,) float64 weights by (n, k) distances to the nearest neighbours: their mean, over all of mean 1.

    Where all distances are 0, all weights are 1.
    """
    return _of_mean_1(distances.mean(axis=1))


def _of_mean_1(weights: F64) -> F64:
    total = weights.sum()
    return weights * (len(weights) / total) if total > 0 else np.ones(len(weights))
