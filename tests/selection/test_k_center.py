"""k-center-greedy against the algorithm as the paper has it."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numeric_fixtures import KINDS, directions, plain_k_center, vectors

from babyllm.errors import UserError
from babyllm.selection.numeric.k_center import k_center


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [90, 900])
def test_centres_are_those_of_the_plain_algorithm(kind: str, n: int) -> None:
    """Centres and radii are equal to the last bit, with ties, repeated vectors and float16, from one pool or many."""
    values = vectors(kind, n)
    found = k_center(values, n // 2, first=7)
    rows, radii = plain_k_center(values, n // 2, first=7)
    assert found.rows.tolist() == rows
    assert found.radii.tolist() == np.sqrt(radii).tolist()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "equal"])
def test_the_cosine_is_the_distance_of_directions(kind: str) -> None:
    """With the cosine, centres are those of the vectors over their lengths, and radii are one minus the cosine."""
    values = vectors(kind)
    found = k_center(values, 60, metric="cosine", first=3)
    rows, radii = plain_k_center(directions(values), 60, first=3)
    assert found.rows.tolist() == rows
    assert found.radii.tolist() == (np.array(radii) / 2).tolist()
    assert np.array_equal(found.rows, k_center(directions(values) * np.float32(4), 60, first=3).rows) or kind == "half"


@given(
    arrays.arrays(np.float32, st.tuples(st.integers(2, 30), st.integers(1, 3)), elements=st.integers(-2, 2)),
    st.data(),
)
@settings(max_examples=60, deadline=None)
def test_any_vectors_and_centres_that_are_there(values: np.ndarray, data: st.DataObject) -> None:
    """From any centres that are there, the next ones are those of the plain algorithm, up to the last vector."""
    chosen = data.draw(st.lists(st.integers(0, len(values) - 1), max_size=len(values) - 1, unique=True))
    k = data.draw(st.integers(1, len(values) - len(chosen)))
    first = None if chosen else data.draw(st.integers(0, len(values) - 1))
    found = k_center(values, k, chosen=chosen, first=first)
    rows, radii = plain_k_center(values, k, first or 0, chosen)
    assert found.rows.tolist() == rows
    assert found.radii.tolist() == np.sqrt(radii).tolist()


def test_a_longer_run_goes_on_where_a_shorter_one_ends() -> None:
    """The first centres of a longer run are those of a shorter one, whose rows can also be passed to go on."""
    values = vectors("narrow")
    long, short = k_center(values, 200), k_center(values, 80)
    rest = k_center(values, 120, chosen=short.rows)
    assert np.array_equal(long.rows, np.concatenate([short.rows, rest.rows]))
    assert np.array_equal(long.radii, np.concatenate([short.radii, rest.radii]))


def test_only_some_rows_are_chosen_and_covered() -> None:
    """With `among`, the result is that of those rows alone, and centres that are there may be outside of them."""
    values = vectors("spread")
    among = np.flatnonzero(np.arange(len(values)) % 3 == 0)
    alone = k_center(values[among], 50, first=4)
    found = k_center(values, 50, among=among, first=int(among[4]))
    assert np.array_equal(found.rows, among[alone.rows]) and np.array_equal(found.radii, alone.radii)
    both = np.concatenate([values[[1, 2]], values[among]])
    outside = k_center(values, 20, among=among, chosen=[1, 2])
    assert np.array_equal(outside.rows, among[k_center(both, 20, chosen=[0, 1]).rows - 2])


def test_the_first_centre_is_nearest_to_the_mean() -> None:
    """Without any centre, the vector nearest to the mean of all is the first."""
    values = vectors("spread")
    mean = values.mean(axis=0, dtype=np.float64)
    assert k_center(values, 1).rows.tolist() == [int(((values - mean) ** 2).sum(axis=1).argmin())]


def test_a_memory_map_is_read_in_parts(tmp_path: Path) -> None:
    """Vectors of a file have the same centres, and need a fraction of their size in memory."""
    values = np.tile(vectors("spread", 10_000, 64), (4, 1)) + vectors("narrow", 40_000, 64)
    np.save(tmp_path / "v.npy", values)
    mapped = np.load(tmp_path / "v.npy", mmap_mode="r")
    tracemalloc.start()
    found = k_center(mapped, 40)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert np.array_equal(found.rows, k_center(values, 40).rows)
    assert peak < values.nbytes / 4


@pytest.mark.parametrize(
    "problem",
    [
        ({"k": 501}, "there are only 500 vectors"),
        ({"chosen": [3, 3]}, "names a row twice"),
        ({"chosen": [500]}, "row 500 is not one of the 500 rows"),
        ({"among": np.array([4, 2])}, "ascending"),
        ({"among": np.array([2, 4]), "first": 3}, "first: row 3 is not among"),
    ],
)
def test_impossible_wishes_are_refused(problem: tuple[dict[str, object], str]) -> None:
    """Rows that are not there, rows twice and too many centres are refused by name."""
    wish, message = problem
    with pytest.raises(UserError, match=message):
        k_center(vectors("spread"), **{"k": 2, **wish})  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30, 0])
def test_vectors_without_a_distance_are_refused_by_row(value: float) -> None:
    """A vector that is not finite, too long, or zero where the cosine is asked for, is named by its row."""
    values = vectors("spread")
    values[41] = value
    with pytest.raises(UserError, match="vector 41 "):
        k_center(values, 5, metric="cosine")
