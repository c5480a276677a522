"""k-means, neighbours, weights of records, and the best records that are not alike, against plain algorithms."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numeric_fixtures import KINDS, directions, plain_squares, vectors

from babyllm.errors import UserError
from babyllm.selection.numeric.diverse_top import diverse_top
from babyllm.selection.numeric.k_center import k_center
from babyllm.selection.numeric.k_means import k_means, nearest_members
from babyllm.selection.numeric.neighbours import (
    cluster_weights,
    neighbour_weights,
    neighbours,
    served,
    served_weights,
)


def all_squares(values: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(n, p) squared distances of all pairs."""
    return np.stack([plain_squares(values, other) for other in others], axis=1)


@pytest.mark.parametrize("kind", KINDS)
def test_clusters_are_a_fixed_point_of_lloyds_iteration(kind: str) -> None:
    """Each vector is in the cluster of its nearest centre, and each centre is the mean of its vectors."""
    values = vectors(kind)
    found = k_means(values, 12, seed=1)
    squares = all_squares(values, found.centres)
    assert np.array_equal(found.labels, squares.argmin(axis=1))
    assert np.array_equal(found.squares, squares.min(axis=1))
    for i in np.unique(found.labels):
        assert found.centres[i] == pytest.approx(values[found.labels == i].mean(axis=0, dtype=np.float64), rel=1e-6)


def test_separate_clusters_are_found_and_a_seed_decides() -> None:
    """Clusters far from each other are found whatever the seed; one seed always has one result, others differ."""
    values = vectors("clusters")
    groups = len(np.unique(np.round(values / 9), axis=0))
    assert all(k_means(values, groups, seed=seed).squares.max() < 0.1 for seed in range(5))
    one, two, other = (k_means(vectors("spread"), 20, seed=seed) for seed in (3, 3, 4))
    assert np.array_equal(one.centres, two.centres) and not np.array_equal(one.labels, other.labels)


@given(arrays.arrays(np.float32, st.tuples(st.integers(3, 25), st.just(2)), elements=st.integers(0, 2)), st.data())
@settings(max_examples=60, deadline=None)
def test_no_cluster_is_empty_if_there_are_enough_vectors(values: np.ndarray, data: st.DataObject) -> None:
    """Clusters are as many as were asked for, or as many as there are different vectors."""
    k = data.draw(st.integers(1, len(values)))
    found = k_means(values, k, seed=data.draw(st.integers(0, 3)), iterations=1000)
    assert len(np.unique(found.labels)) == min(k, len(np.unique(values, axis=0)))


def test_a_centre_that_lost_its_vectors_moves_to_another() -> None:
    """Where vectors leave a cluster one after another, its centre begins a new one."""
    rng = np.random.default_rng(5)
    values = np.concatenate([rng.standard_normal((30, 1)) + 40 * i for i in range(3)]).astype(np.float32)
    found = [k_means(values, 60, seed=seed, iterations=300) for seed in range(12)]
    assert all(len(np.unique(clusters.labels)) == 60 for clusters in found)


def test_the_members_nearest_to_each_centre() -> None:
    """Of each cluster, the nearest members come first, of equally near ones the lowest; small clusters give fewer."""
    found = k_means(vectors("grid"), 30, seed=2)
    for i, members in enumerate(nearest_members(found, 10)):
        own = np.flatnonzero(found.labels == i)
        assert members.tolist() == sorted(own.tolist(), key=lambda row: (found.squares[row], row))[:10]


def test_clusters_of_some_rows_and_of_directions() -> None:
    """`among` divides these rows alone, and the cosine divides directions."""
    values = vectors("spread")
    among = np.arange(1, 500, 2)
    assert np.array_equal(k_means(values, 9, among=among).labels, k_means(values[among], 9).labels)
    assert np.array_equal(k_means(values, 9, metric="cosine").labels, k_means(directions(values), 9).labels)


def test_clusters_of_a_file_need_little_memory(tmp_path: Path) -> None:
    """A memory map is read in blocks, and has the clusters of the same array in memory."""
    values = vectors("spread", 30_000, 64)
    np.save(tmp_path / "v.npy", values)
    tracemalloc.start()
    found = k_means(np.load(tmp_path / "v.npy", mmap_mode="r"), 8, iterations=3)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert np.array_equal(found.labels, k_means(values, 8, iterations=3).labels)
    assert peak < 0.85 * values.nbytes


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("k", [1, 5, 599])
def test_neighbours_are_those_of_all_pairs(kind: str, k: int) -> None:
    """The nearest others, their order and their distances are those of a sorted table of all pairs."""
    values = vectors(kind, 600)
    found = neighbours(values, k)
    squares = all_squares(values, values)
    np.fill_diagonal(squares, np.inf)
    order = np.argsort(squares, axis=1, kind="stable")[:, :k]
    assert np.array_equal(found.rows, order)
    assert np.array_equal(found.distances, np.sqrt(np.take_along_axis(squares, order, axis=1)))


def test_neighbours_among_some_and_by_the_cosine() -> None:
    """`among` compares these rows alone, and the cosine is half the squared distance of directions."""
    values = vectors("spread", 300)
    among = np.arange(0, 300, 3)
    assert np.array_equal(neighbours(values, 4, among=among).rows, among[neighbours(values[among], 4).rows])
    found, plain = neighbours(values, 4, metric="cosine"), neighbours(directions(values), 4)
    assert np.array_equal(found.rows, plain.rows)
    assert found.distances == pytest.approx(plain.distances**2 / 2)


def test_weights_are_what_they_are_called() -> None:
    """Weights are one over the cluster's size, the number served, and the mean distance, each of mean 1."""
    labels = np.array([0, 0, 0, 2])
    assert cluster_weights(labels).tolist() == pytest.approx([2 / 3, 2 / 3, 2 / 3, 2])
    assert served_weights(labels, 4).tolist() == [3, 0, 1, 0]
    assert neighbour_weights(np.array([[1.0, 3.0], [0.0, 4.0], [5.0, 7.0]])) == pytest.approx([0.6, 0.6, 1.8])
    assert neighbour_weights(np.zeros((3, 2))).tolist() == [1, 1, 1]


def test_centres_serve_what_is_nearest_to_them() -> None:
    """Every vector is served by the nearest centre, the first of several, and none is counted twice."""
    values = vectors("grid")
    centres = k_center(values, 25).rows
    found = served(values, centres)
    assert np.array_equal(found, all_squares(values, values[centres]).argmin(axis=1))
    assert served_weights(found, 25).sum() == pytest.approx(25)


def plain_diverse_top(values: np.ndarray, scores: np.ndarray, n: int, threshold: float) -> tuple[list[int], list[int]]:
    """The rule as it is written, pair by pair."""
    units = directions(values).astype(np.float64)
    kept: list[int] = []
    like = [-1] * len(values)
    for row in sorted(np.flatnonzero(~np.isnan(scores)).tolist(), key=lambda row: (-scores[row], row)):
        if len(kept) == n:
            break
        cosines = np.minimum((units[row] * units[kept]).sum(axis=1), 1)
        alike = [other for other, cosine in zip(kept, cosines, strict=True) if cosine > threshold]
        like[row] = alike[0] if alike else row
        if not alike:
            kept.append(row)
    return kept, like


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "equal"])
@pytest.mark.parametrize(("n", "threshold"), [(2000, 0.9), (2000, 0.2), (40, 0.5), (2000, 1.0), (0, 0.9)])
def test_the_best_that_are_not_alike(kind: str, n: int, threshold: float) -> None:
    """What is kept, and what each of the others is like, is what comparing pair by pair says."""
    values = vectors(kind, 1100, 6)
    scores = np.random.default_rng(2).integers(0, 300, 1100).astype(np.float64)
    scores[::50] = np.nan
    found = diverse_top(values, scores, n, threshold=threshold)
    kept, like = plain_diverse_top(values, scores, n, threshold)
    assert found.rows.tolist() == kept
    assert found.like.tolist() == like
    assert found.n_nan == 22


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda v: k_means(v, 501), "500 vectors have from 1 to 500 clusters"),
        (lambda v: neighbours(v, 500), "have from 1 to 499 neighbours"),
        (lambda v: served(v, np.array([], int)), "at least one row"),
        (lambda v: diverse_top(v, np.zeros(3), 2), "one score a vector"),
        (lambda v: diverse_top(v, np.zeros(500), 2, threshold=2), "a cosine is from -1 to 1"),
        (lambda v: k_means(v[0], 1), "need \\(n, d\\) float32 or float16"),
    ],
)
def test_impossible_wishes_are_refused(call: object, message: str) -> None:
    """Too many clusters or neighbours, no centre, and scores of other vectors are refused by name."""
    with pytest.raises(UserError, match=message):
        call(vectors("spread"))  # type: ignore[operator]
