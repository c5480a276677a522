"""The curriculum by competence: what each step draws from, how, and that it is the same on every rank."""

import math
from bisect import bisect_right
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import chisquare
from training_fixtures import CPU, tiny_config

from babyllm.data.loader import Loader
from babyllm.data.order.competence import Competence, Pace, pace_of
from babyllm.data.order.shuffle import Shuffled
from babyllm.data.row_config import CompetenceConfig, Share
from babyllm.data.rows.arrays import RowArrays
from babyllm.data.token_data import make_loader, open_pretraining_data
from babyllm.errors import UserError
from babyllm.model.options import ModelOptions
from babyllm.runtime import Runtime, start
from babyllm.schedule import Plan

BATCH = 8


class Numbered:
    """Rows of one token, their own number."""

    def __init__(self, n: int) -> None:
        self._n = n

    def __len__(self) -> int:
        return self._n

    def lengths(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.ones_like(indices)

    def rows(self, indices: NDArray[np.int64]) -> RowArrays:
        return RowArrays({"tokens": indices[:, None], "targets": indices[:, None]})


def order_of(difficulty: Any, config: CompetenceConfig, steps: int = 100, batch: int = BATCH) -> Competence:
    data = Numbered(len(difficulty))
    pace = pace_of(config, steps)
    return Competence(data, lambda _: Shuffled(data, 1), np.asarray(difficulty), pace, "random", batch, seed=1)


def drawn(order: Any, step: int, batch: int = BATCH) -> list[int]:
    found: list[int] = order.rows(np.arange(step * batch, (step + 1) * batch))["tokens"][:, 0].tolist()
    return found


def epsilon(difficulty: Any) -> list[float]:
    """The share of the rows that are not harder, for each row."""
    ordered = sorted(difficulty)
    return [bisect_right(ordered, value) / len(ordered) for value in difficulty]


# ---- the pace


@pytest.mark.parametrize("until", (0.5, 50))
def test_linear_and_root_paces_are_those_of_platanios(until: float) -> None:
    """The competence at each step is min(1, t (1 - c0) / T + c0), and the root of the same over squares."""
    for pace, power in (("linear", 1), ("root", 2)):
        found = pace_of(CompetenceConfig(by="random", pace=pace, start=0.2, until=until), 100)  # type: ignore[arg-type]
        for step in range(100):
            wanted = min(1.0, step * (1 - 0.2**power) / 50 + 0.2**power) ** (1 / power)
            assert found.at(step) == pytest.approx(wanted, abs=1e-12)
        assert found.full_from == 50


def test_the_step_pace_adds_its_increment_at_each_interval() -> None:
    """CBC's pace: lambda grows by the increment every so many steps, up to 1."""
    found = pace_of(CompetenceConfig(by="random", pace="step", start=0.1, begin=5, increment=0.25, interval=3), 100)
    assert [found.at(step) for step in (0, 5, 7, 8, 11, 16)] == pytest.approx([0.1, 0.1, 0.1, 0.35, 0.6, 0.85])
    assert found.at(17) == 1.0 == found.at(99) and found.full_from == 17


def test_the_pace_counts_from_where_it_begins() -> None:
    """Until `begin` the competence is `start`, and it grows from there without a jump."""
    found = pace_of(CompetenceConfig(by="random", start=0.1, begin=0.4, until=0.9), 100)
    assert [found.at(step) for step in (0, 39, 40)] == [0.1] * 3
    assert found.at(41) == pytest.approx(0.1 + 0.9 / 50) and found.at(89) < 1 == found.at(90)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (CompetenceConfig(by="random", begin=60), "data.curriculum.until=0.5: is step 50, but .* step 60"),
        (CompetenceConfig(by="loss", renew=0.6), "data.curriculum.until=0.5: is step 50, but .*data.curriculum.renew"),
    ],
)
def test_a_pace_that_ends_before_it_begins_is_refused(config: CompetenceConfig, message: str) -> None:
    """The message names the key and both steps."""
    with pytest.raises(UserError, match=message):
        pace_of(config, 100)


# ---- what a step draws


@given(
    difficulty=st.lists(st.integers(0, 12), min_size=BATCH, max_size=60),
    pace=st.sampled_from(["linear", "root", "step"]),
    start=st.floats(0, 1),
)
def test_no_row_is_harder_than_the_competence(difficulty: list[int], pace: Any, start: float) -> None:
    """Each row that a step draws has an epsilon of at most its competence, and a step draws no row twice."""
    order = order_of(difficulty, CompetenceConfig(by="random", pace=pace, start=start, increment=0.02))
    of_row = epsilon(difficulty)
    for step in range(50):
        rows, competence = drawn(order, step), order.competence(step)
        if competence < 1:
            assert max(of_row[row] for row in rows) <= competence
            assert len(set(rows)) == BATCH
            assert order.n_allowed(step) == sum(value <= competence for value in of_row) >= BATCH
    assert [drawn(order, step) for step in (60, 99)] == [
        drawn(Shuffled(Numbered(len(difficulty)), 1), s) for s in (60, 99)
    ]


def test_a_step_draws_uniformly_among_the_rows_it_may() -> None:
    """Over many steps of one competence every allowed row comes equally often, and so does every pair."""
    difficulty = np.random.default_rng(0).permutation(100)
    order = order_of(difficulty, CompetenceConfig(by="random", start=0.3, begin=4000, until=5000))
    steps = [drawn(order, step) for step in range(4000)]
    counts = Counter(row for rows in steps for row in rows)
    assert set(counts) == set(np.flatnonzero(difficulty < 30).tolist())
    # Without repeats inside a step the counts vary less than independent draws do: by (1 - batch / allowed).
    assert chisquare(list(counts.values())).pvalue > 0.001
    statistic = chisquare(list(counts.values())).statistic / (1 - BATCH / 30)
    assert 10 < statistic < 60  # 29 degrees of freedom
    pairs = Counter(tuple(sorted(rows[:2])) for rows in steps)
    assert len(pairs) == 435 and chisquare(list(pairs.values())).pvalue > 0.001
    places = Counter((place, row) for rows in steps for place, row in enumerate(rows))
    assert len(places) == 240 and chisquare(list(places.values())).pvalue > 0.001


def test_competence_is_raised_until_a_step_can_be_filled() -> None:
    """With few rows of the lowest difficulty, the competence is that of the first difficulty with a global batch."""
    order = order_of([0, 0, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3], CompetenceConfig(by="random", start=0.0))
    assert order.competence(0) == 9 / 16 and order.n_allowed(0) == 9
    assert set(drawn(order, 0)) <= set(range(9))
    with pytest.raises(UserError, match=r"data\.global_batch=8: .* only 7 rows"):
        order_of(range(7), CompetenceConfig(by="random"))


def test_rows_of_one_difficulty_have_the_ordinary_order() -> None:
    """If all rows are equally hard, the competence is 1 from the first step."""
    order = order_of([5] * 40, CompetenceConfig(by="random"))
    assert order.competence(0) == 1
    assert drawn(order, 0) == drawn(Shuffled(Numbered(40), 1), 0)


def test_a_curriculum_is_logged() -> None:
    """The metrics have the competence of the next step, the rows it draws from, and the epochs read."""
    order = order_of(range(100), CompetenceConfig(by="random", start=0.2))
    assert order.metrics(10 * BATCH) == {"competence": pytest.approx(0.36), "competence_rows": 36, "epoch/all": 0.8}


@given(seed=st.integers(0, 99), step=st.integers(0, 80))
def test_a_row_depends_on_its_number_alone(seed: int, step: int) -> None:
    """Rows read one by one, in any order and across steps, are those read together."""
    order = order_of(np.arange(50) % 9, CompetenceConfig(by="random"))
    numbers = np.random.default_rng(seed).permutation(np.arange(step * BATCH, step * BATCH + 30))
    together = order.rows(numbers)["tokens"][:, 0].tolist()
    assert together == [int(order.rows(np.array([number]))["tokens"][0, 0]) for number in numbers]


@pytest.mark.parametrize(("ranks", "micro_batch"), [(1, 8), (1, 1), (2, 2), (4, 1), (4, 2), (8, 1)])
def test_ranks_and_micro_batches_change_no_row(ranks: int, micro_batch: int) -> None:
    """The rows of each step are the same, in the same order, for any number of ranks and any micro-batch."""
    order = order_of(np.arange(50) % 9, CompetenceConfig(by="random"), steps=12)
    loaders = [Loader(order, Share(BATCH, micro_batch, rank, ranks), 1) for rank in range(ranks)]
    for step in range(10):
        found = [int(row) for loader in loaders for batch in next(loader) for row in batch["tokens"][:, 0]]
        assert found == drawn(order, step)
    for loader in loaders:
        loader.close()


# ---- a run's loader


@pytest.fixture(scope="module")
def runtime() -> Any:
    with start(CPU) as started:
        yield started


def loader_of(path: Path, runtime: Runtime, run_dir: Path | None = None, steps: int = 20, **curriculum: Any) -> Loader:
    config = tiny_config(path).data
    config = replace(config, curriculum=CompetenceConfig(**curriculum))
    data = open_pretraining_data(config)
    model = ModelOptions(n_layers=1, d_model=8, n_heads=1).build(data.tokens.manifest.vocab_size, 16)
    return make_loader(config, data, model, runtime, Plan(steps=steps), run_dir)[0]


def read(loader: Loader, steps: int) -> list[Any]:
    found = [[batch["tokens"].tolist() for batch in next(loader)] for _ in range(steps)]
    loader.close()
    return found


@pytest.mark.parametrize("by", ["random", "length", "unigram", "trigram"])
def test_a_competence_of_1_is_the_ordinary_order(data: Path, runtime: Runtime, by: str) -> None:
    """With start=1 the batches of pretraining are bit for bit those without a curriculum, over several epochs."""
    plain = read(loader_of(data, runtime), 30)
    assert read(loader_of(data, runtime, by=by, start=1.0), 30) == plain
    assert read(loader_of(data, runtime, by=by), 30)[10:] == plain[10:]
    assert read(loader_of(data, runtime, by=by), 10) != plain[:10]


def test_a_loader_resumes_exactly_and_refuses_another_curriculum(data: Path, runtime: Runtime) -> None:
    """From a stored position the same rows follow; other settings than those of the rows read are an error."""
    whole = read(loader_of(data, runtime, by="bigram"), 20)
    loader = loader_of(data, runtime, by="bigram")
    read(loader, 7)
    state = loader.state_dict()
    assert state["consumed_rows"] == 56
    again = loader_of(data, runtime, by="bigram")
    again.load_state_dict(state)
    assert read(again, 13) == whole[7:]
    for other in ({"by": "unigram"}, {"by": "bigram", "start": 0.2}, {}):
        with pytest.raises(UserError, match=r"^data\.curriculum: the 56 sequences .* ordered in another way"):
            loader_of(data, runtime, **other).load_state_dict(state)


def test_a_curriculum_beside_a_mixture_is_refused(data: Path, runtime: Runtime) -> None:
    """The message names both keys."""
    config = tiny_config(data).data
    config = replace(config, curriculum=CompetenceConfig(by="random"), mix={"left": 1.0})
    opened = open_pretraining_data(config)
    model = ModelOptions(n_layers=1, d_model=8, n_heads=1).build(opened.tokens.manifest.vocab_size, 16)
    with pytest.raises(UserError, match=r"data\.curriculum\.by: cannot be combined with data\.mix"):
        make_loader(config, opened, model, runtime, Plan(steps=9))


def test_a_pace_ends_where_it_says() -> None:
    """A stepwise pace that never reaches 1 within a run is one that later steps still obey."""
    pace = Pace("step", 0.1, 0, None, 4e-4, 1, 0)
    assert pace.full_from == math.ceil(0.9 / 4e-4)
