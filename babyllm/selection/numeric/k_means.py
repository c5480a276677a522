"""k-means: seeds by k-means++, then Lloyd's iterations, in blocks, a function of vectors and seed.

Arthur and Vassilvitskii 2007, k-means++: The Advantages of Careful Seeding: the next seed is a vector with a
probability proportional to its squared distance to the nearest seed. Lloyd 1982: vectors join their nearest centre,
centres move to the mean of their vectors, until no vector changes its centre. The warm-up model of IFD (Li et al. 2023,
From Quantity to Quality) learns from the vectors nearest to the centres: 100 clusters, 10 records of each.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from babyllm.errors import UserError
from babyllm.selection.numeric.distances import nearest, side, squared
from babyllm.selection.numeric.keys import uniform
from babyllm.selection.numeric.vectors import F32, F64, Metric, Rows, Vectors


class Clusters(NamedTuple):
    """The clusters of some vectors.

    Attributes:
        centres: (k, d) float32 means of the clusters; with the metric cosine, of the vectors over their lengths.
        labels: (n,) int64 number of each vector's cluster, the lowest one of equally near centres.
        squares: (n,) float64 squared distance of each vector to its centre.
        iterations: number of times that the centres moved.
    """

    centres: F32
    labels: Rows
    squares: F64
    iterations: int


def k_means(
    values: NDArray[Any],
    k: int,
    *,
    metric: Metric = "euclidean",
    among: NDArray[Any] | None = None,
    seed: int = 0,
    iterations: int = 100,
) -> Clusters:
    """Divide vectors into `k` clusters.

    If a cluster has lost all its vectors, its centre moves to the vector that is farthest from the new mean of its own
    cluster, one such centre in each iteration. When all vectors stay where they are, a cluster is therefore empty only
    if there are fewer than `k` different vectors. The result does not depend on the number of threads. Memory, besides
    the array, is some 60 bytes a vector, the centres in float64, and blocks of a few MiB.

    Args:
        values: (all, d) float32 or float16 array, which may be a memory map.
        k: number of clusters, from 1 to the number of vectors.
        metric: euclidean, or cosine for vectors over their lengths.
        among: (n,) ascending rows of the vectors that are divided; None for all.
        seed: seed of the first centres.
        iterations: largest number of times that the centres move.

    Raises:
        UserError: `k` is below 1 or above the number of vectors; a vector is not finite, too long or, for the cosine,
            zero.
    """
    data = Vectors(values, among, metric)
    if not 1 <= k <= len(data):
        raise UserError(f"k={k:,}: {len(data):,} vectors have from 1 to {len(data):,} clusters")
    centres = data.take(_seeds(data, k, seed))
    labels, squares, moves = np.full(len(data), -1, np.int64), np.empty(len(data)), 0
    while True:
        before = labels
        labels, squares = assign(data, centres)
        if moves == iterations or np.array_equal(labels, before):
            return Clusters(centres, labels, squares, moves)
        centres, moves = _means(data, centres, labels), moves + 1


def assign(data: Vectors, centres: F32) -> tuple[Rows, F64]:
    """The nearest of (k, d) float32 centres to each vector.

    Returns:
        (n,) int64 number of the nearest centre, the lowest one of several; (n,) float64 squared distance to it.
    """
    labels, squares, to = np.empty(len(data), np.int64), np.empty(len(data)), side(centres, data.mean)
    for places, block in data.blocks():
        labels[places], squares[places] = nearest(side(block, data.mean), to)
    return labels, squares


def nearest_members(clusters: Clusters, n: int) -> list[Rows]:
    """For each cluster, the places (int64) of its `n` vectors nearest to the centre, the nearest first, or of fewer.

    Of equally near vectors, the lowest place is first. With `among`, places count the vectors that were divided.
    """
    order = np.lexsort((clusters.squares, clusters.labels))
    edges = np.searchsorted(clusters.labels[order], np.arange(len(clusters.centres) + 1))
    return [order[first : min(first + n, last)] for first, last in pairwise(edges)]


def _seeds(data: Vectors, k: int, seed: int) -> Rows:
    """(k,) int64 places of the first centres, all different."""
    draws = uniform(np.arange(k, dtype=np.uint64), seed)
    places = np.empty(k, np.int64)
    places[0] = int(draws[0] * len(data))
    squares = np.full(len(data), np.inf)
    for i in range(1, k):
        _lower(data, places[i - 1], squares)
        total = np.cumsum(squares)
        if total[-1] > 0:
            place = int(np.searchsorted(total, draws[i] * total[-1], side="right"))
            places[i] = min(place, int(np.flatnonzero(squares)[-1]))  # the product may be rounded up to the total
        else:  # all other vectors equal a seed: the lowest places are as good as any
            places[i:] = np.setdiff1d(np.arange(len(data)), places[:i])[: k - i]
            break
    return places


def _lower(data: Vectors, place: int, squares: F64) -> None:
    """Lower squared distances to those from one vector, in place."""
    row = data.take(np.array([place]))
    for places, block in data.blocks():
        squares[places] = nearest(side(block, data.mean), side(row, data.mean), squares[places])[1]


def _means(data: Vectors, old: F32, labels: Rows) -> F32:
    """(k, d) float32 means of the clusters; the first empty one is the vector farthest from its own mean."""
    k = len(old)
    sums, counts = np.zeros((k, data.width)), np.bincount(labels, minlength=k)
    for places, block in data.blocks():
        order = np.argsort(labels[places], kind="stable")
        here, starts = np.unique(labels[places][order], return_index=True)
        sums[here] += np.add.reduceat(block[order].astype(np.float64), starts, axis=0)
    centres: F32 = old.copy()
    centres[counts > 0] = sums[counts > 0] / counts[counts > 0, None]
    empty = np.flatnonzero(counts == 0)
    if len(empty):
        squares = np.concatenate([squared(block, centres[labels[places]]) for places, block in data.blocks()])
        if squares.max() > 0:
            centres[empty[0]] = data.take(np.array([squares.argmax()]))[0]
    return centres
