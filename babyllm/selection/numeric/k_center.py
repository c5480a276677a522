"""k-center-greedy: the records that leave no other record far from a chosen one.

Sener and Savarese 2018, Active Learning for Convolutional Neural Networks: A Core-Set Approach, algorithm 1: the next
centre is always the vector that is farthest from all centres so far. MoDS (Du et al. 2023) and DiverseEvol (Wu et al.
2023) choose instructions by it.

    distance of each vector to its nearest centre, an upper bound where newer centres were not yet compared
    -> the farthest vectors are the pool; their distances are brought up to date
    -> centres are taken from the pool as long as the farthest vector must be in it -> the next pool

The plain algorithm compares all vectors with each new centre. Here, a vector is compared only while it may be the
farthest, which does not change the result: distances only shrink, so an old one is an upper bound.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from babyllm.errors import UserError
from babyllm.selection.numeric.distances import Side, approximate, nearest, side, squared
from babyllm.selection.numeric.vectors import F32, F64, Metric, Rows, Vectors

_LEAST, _MOST = 256, 8192  # vectors of a pool
_POOL_VALUES = 1 << 20  # what the vectors of a pool hold at most, unless they are the least: 4 MiB
_GROUP = 512  # vectors of a pool that are brought up to date together


class Centres(NamedTuple):
    """Chosen vectors in the order in which they were chosen.

    Attributes:
        rows: (k,) int64, their rows in the array.
        radii: (k,) float64, the largest distance of any vector to its nearest centre once this centre is chosen;
            with the metric cosine, one minus the cosine.
    """

    rows: Rows
    radii: F64


def k_center(
    values: NDArray[Any],
    k: int,
    *,
    metric: Metric = "euclidean",
    chosen: Sequence[int] | NDArray[Any] = (),
    among: NDArray[Any] | None = None,
    first: int | None = None,
) -> Centres:
    """Choose `k` centres greedily; the first k of a longer run are those of a shorter one.

    Of equally far vectors, the lowest row is chosen. Distances are float64 functions of two vectors, so the result is
    that of the plain algorithm, whatever the blocks and the number of threads. Memory, besides the array, is some 40
    bytes a vector, two copies of the centres as float32, and blocks of a few MiB.

    Args:
        values: (all, d) float32 or float16 array, which may be a memory map.
        k: number of centres to choose, at most the number of vectors that are not yet chosen.
        metric: euclidean or cosine.
        chosen: rows of centres that are already there; they are not chosen again, and not returned.
        among: (n,) ascending rows that may be chosen and are to be covered; None for all. `chosen` may be others.
        first: row of the first centre if none is there; None takes the vector that is nearest to the mean of all.

    Raises:
        UserError: there are fewer vectors than `k`; a row is not one of the array or is named twice; a vector is not
            finite, too long or, for the cosine, zero.
    """
    data, there = Vectors(values, among, metric), np.asarray(chosen, np.int64)
    everything = Vectors(values, None, metric)
    there = everything.places(there, "chosen")
    if len(np.unique(there)) < len(there):
        raise UserError("chosen: names a row twice")
    if k < 1:
        return Centres(np.empty(0, np.int64), np.empty(0))
    begin = np.empty(0, np.int64)
    if not len(there) and len(data):
        begin = nearest_to_mean(data) if first is None else data.places(np.array([first]), "first")
    old = np.flatnonzero(np.isin(np.arange(len(data)) if data.among is None else data.among, there))
    if k > len(data) - len(old):
        raise UserError(f"k={k:,}: there are only {len(data) - len(old):,} vectors to choose from")
    cover = _Cover(data, everything.take(there) if len(there) else data.take(begin), k + 1)
    cover.limits[old] = -1
    cover.limits[begin] = -1
    rows, radii = cover.choose(k - len(begin))
    if len(begin):
        rows = np.concatenate([begin, rows])
        radii = np.concatenate([[cover.first_radius], radii])
    return Centres(data.rows(rows), np.maximum(radii, 0) / 2 if metric == "cosine" else np.sqrt(np.maximum(radii, 0)))


def nearest_to_mean(data: Vectors) -> Rows:
    """(1,) int64, the place of the vector nearest to the mean of all, the lowest one of several."""
    best, place = np.inf, 0
    for places, block in data.blocks():
        distances = squared(block, data.mean)
        here = int(distances.argmin())
        if distances[here] < best:
            best, place = float(distances[here]), places.start + here
    return np.array([place])


class _Pool(NamedTuple):
    """The vectors that may be farthest: ascending places, and the largest distance outside with its lowest place."""

    places: Rows
    bound: float
    bound_place: int


class _Cover:
    """The squared distance of each vector to its nearest centre, computed as late as possible.

    Attributes:
        limits: (n,) float64 upper bounds of the squared distances; -1 for a vector that is a centre itself.
        first_radius: largest squared distance to the centres at the beginning.
    """

    def __init__(self, data: Vectors, centres: F32, more: int) -> None:
        self._data, self._n = data, len(centres)
        self._centres = side(np.concatenate([centres, np.zeros((more, data.width), np.float32)]), data.mean)
        self.limits = np.empty(len(data))
        for places, block in data.blocks():
            self.limits[places] = nearest(side(block, data.mean), self._centres.part(slice(self._n)))[1]
        self._seen = np.full(len(data), self._n, np.int32)
        self.first_radius = float(self.limits.max(initial=0))

    def choose(self, k: int) -> tuple[Rows, F64]:
        """(k,) int64 places of the next centres, and (k,) float64 largest squared distance after each."""
        chosen: list[int] = []
        farthest: list[float] = []
        size, most = _LEAST, max(_LEAST, min(_MOST, _POOL_VALUES // self._data.width))
        while len(chosen) <= k and self.limits.max(initial=-1) >= 0:
            pool = self._pool(size)
            self._refresh(pool.places)
            picked, distances = self._from_pool(pool, k + 1 - len(chosen))
            chosen += picked
            farthest += distances
            size = min(most, max(_LEAST, 8 * len(picked) if picked else 2 * size))
        farthest += [0.0] * (k + 1 - len(farthest))  # with all vectors chosen, nothing is left to cover
        return np.array(chosen[:k], np.int64), np.array(farthest[1 : k + 1])

    def _pool(self, size: int) -> _Pool:
        """The `size` largest limits, of equal ones the lowest places."""
        if size >= len(self.limits):
            return _Pool(np.arange(len(self.limits)), -1.0, 0)
        bound = float(np.partition(self.limits, -size)[-size])
        above, equal = np.flatnonzero(self.limits > bound), np.flatnonzero(self.limits == bound)
        inside = size - len(above)
        outside = int(equal[inside]) if inside < len(equal) else len(self.limits)
        return _Pool(np.sort(np.concatenate([above, equal[:inside]])), bound, outside)

    def _refresh(self, places: Rows) -> None:
        """Compare vectors with the centres that they were not compared with."""
        places = places[np.argsort(self._seen[places], kind="stable")]
        places = places[self._seen[places] < self._n]
        for begin in range(0, len(places), _GROUP):
            group = places[begin : begin + _GROUP]
            newer = self._centres.part(slice(int(self._seen[group[0]]), self._n))
            self.limits[group] = nearest(side(self._data.take(group), self._data.mean), newer, self.limits[group])[1]
        self._seen[places] = self._n

    def _from_pool(self, pool: _Pool, most: int) -> tuple[list[int], list[float]]:
        """The next centres as long as they must be in the pool, and the squared distance of each when it is chosen."""
        vectors, limits = side(self._data.take(pool.places), self._data.mean), self.limits[pool.places]
        chosen: list[int] = []
        farthest: list[float] = []
        while len(chosen) < most:
            i = int(limits.argmax())
            place, distance = int(pool.places[i]), float(limits[i])
            if distance < 0 or distance < pool.bound or (distance == pool.bound and place > pool.bound_place):
                break
            for column, own in zip(self._centres, vectors, strict=True):
                column[self._n] = own[i]
            self._n += 1
            chosen.append(place)
            farthest.append(distance)
            limits[i] = -1
            _compare(vectors, i, limits)
        self.limits[pool.places], self._seen[pool.places] = limits, self._n
        return chosen, farthest


def _compare(vectors: Side, i: int, limits: F64) -> None:
    """Lower the limits of a pool to the squared distances from its vector `i`."""
    products, slack = approximate(vectors, vectors.part(slice(i, i + 1)))
    nearer = np.flatnonzero((products[:, 0] - slack < limits) & (limits > 0))
    limits[nearer] = np.minimum(limits[nearer], squared(vectors.vectors[nearer], vectors.vectors[i]))
