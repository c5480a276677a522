"""Rules that choose records by their scores."""

import hashlib
import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from babyllm.errors import UserError
from babyllm.selection.numeric.keys import text_keys, uniform
from babyllm.selection.numeric.record_rules import (
    RuleConfig,
    linear_weights,
    logarithmic_weights,
    rank,
    staged,
)

NAMES = ("top", "bottom", "range", "random", "linear", "logarithmic")
SCORES = st.one_of(st.integers(-3, 3).map(float), st.sampled_from([math.nan, math.inf, -math.inf]))


def plain_uniform(key: int, seed: int) -> float:
    """SplitMix64's finaliser on Python integers."""

    def mixed(x: int) -> int:
        x = (x + 0x9E3779B97F4A7C15) % 2**64
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
        return x ^ (x >> 31)

    return ((mixed(key ^ mixed(seed % 2**64)) >> 12) + 0.5) / 2**52


def kept(ids: list[str], scores: list[float], config: RuleConfig) -> list[str]:
    return [ids[row] for row in rank(ids, np.array(scores), config).rows]


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=25, deadline=None)
@given(st.dictionaries(st.text(max_size=3), SCORES, max_size=20), st.randoms(use_true_random=False))
def test_the_order_of_records_changes_nothing(name: str, scores: dict[str, float], rng: random.Random) -> None:
    """A record's place in the result depends on ids and scores, never on the order in which they came."""
    config = RuleConfig(name, low=-2, high=2)  # type: ignore[arg-type]
    ids = list(scores)
    mixed = rng.sample(ids, len(ids))
    assert kept(ids, [scores[i] for i in ids], config) == kept(mixed, [scores[i] for i in mixed], config)


@settings(max_examples=25, deadline=None)
@given(st.dictionaries(st.text(max_size=3), SCORES, max_size=20))
def test_the_best_and_the_worst_are_first(scores: dict[str, float]) -> None:
    """Top and bottom sort by the score and then by the id, and leave out scores that are not numbers."""
    ids, values = list(scores), list(scores.values())
    numbers = [i for i in ids if not math.isnan(scores[i])]
    assert kept(ids, values, RuleConfig("top")) == sorted(numbers, key=lambda i: (-scores[i], i))
    assert kept(ids, values, RuleConfig("bottom")) == sorted(numbers, key=lambda i: (scores[i], i))
    assert rank(ids, np.array(values), RuleConfig("top")).n_nan == len(ids) - len(numbers)


def test_a_range_keeps_scores_from_low_to_high() -> None:
    """Both limits are inside, without a limit all are inside, and what is outside is counted."""
    ids, scores = list("abcdef"), np.array([0, 1, 2, 3, np.inf, np.nan])
    found = rank(ids, scores, RuleConfig("range", low=1, high=2))
    assert sorted(found.rows.tolist()) == [1, 2] and found[1:] == (1, 3)
    assert sorted(rank(ids, scores, RuleConfig("range", low=2)).rows.tolist()) == [2, 3, 4]


@pytest.mark.parametrize("name", ["random", "range", "linear", "logarithmic"])
def test_draws_depend_on_the_seed_and_stay_without_a_record(name: str) -> None:
    """Another seed draws others; if one record goes, few of the others change, and with equal chances none does."""
    ids, scores = [f"r{i}" for i in range(400)], np.arange(400.0)
    first, other = (kept(ids, scores.tolist(), RuleConfig(name, seed=seed)) for seed in (0, 1))  # type: ignore[arg-type]
    assert sorted(first) == sorted(other) and first != other
    without = kept(ids[1:], scores[1:].tolist(), RuleConfig(name))  # type: ignore[arg-type]
    common = set(first[:100]) & set(without[:100])
    assert len(common) > 97
    if name in ("random", "range"):
        assert without == [i for i in first if i != "r0"]


@pytest.mark.parametrize(("name", "weights"), [("linear", linear_weights), ("logarithmic", logarithmic_weights)])
def test_first_draws_follow_the_weights(name: str, weights: object) -> None:
    """Over many seeds, the record that is drawn first has each rank as often as its weight says (chi-square)."""
    ids, scores = [f"r{i}" for i in range(8)], np.arange(8.0)[::-1]
    n = 4000
    seen = np.bincount([rank(ids, scores, RuleConfig(name, seed=s)).rows[0] for s in range(n)], minlength=8)  # type: ignore[arg-type]
    expected = weights(8)  # type: ignore[operator]
    expected = expected / expected.sum() * n
    assert ((seen - expected) ** 2 / expected).sum() < 24.3  # 0.999 of the distribution with 7 degrees of freedom


def test_the_weights_are_those_of_the_definition() -> None:
    """Linear weights fall by equal steps, logarithmic ones by equal steps of the rank's logarithm, to above 0."""
    assert linear_weights(4).tolist() == [1, 0.75, 0.5, 0.25]
    assert logarithmic_weights(7)[[0, 1, 3]] == pytest.approx([1, 2 / 3, 1 / 3])
    heavy = np.cumsum(logarithmic_weights(100_000)) / logarithmic_weights(100_000).sum()
    assert 0.17 < np.searchsorted(heavy, 0.5) / 100_000 < 0.23


def test_subsets_in_stages_are_nested() -> None:
    """Each stage begins with the one before it, and shares must grow."""
    first, second, third = staged(np.arange(30)[::-1], [0.05, 0.1, 1])
    assert first.tolist() == [29, 28] and second.tolist() == [29, 28, 27] and len(third) == 30
    assert staged(np.array([4]), [0.01])[0].tolist() == [4]
    for shares in ([0.1, 0.1], [0.0], [1.1]):
        with pytest.raises(UserError, match="ascending"):
            staged(np.arange(3), shares)


def test_numbers_of_texts_are_uniform_and_fixed() -> None:
    """The numbers of many texts are spread evenly, and those of one text never change."""
    draws = uniform(text_keys(f"文{i}" for i in range(20_000)), 3)
    assert draws.min() > 0 and draws.max() < 1
    counts = np.bincount((draws * 20).astype(int), minlength=20)
    assert ((counts - 1000) ** 2 / 1000).sum() < 43.8  # 0.999 of the distribution with 19 degrees of freedom
    key = int.from_bytes(hashlib.blake2b("月落烏啼".encode(), digest_size=8).digest(), "little")
    assert uniform(text_keys(["月落烏啼"]), 7).tolist() == [plain_uniform(key, 7)]


def test_impossible_rules_are_refused() -> None:
    """An empty range and a missing score are refused."""
    with pytest.raises(UserError, match="low=2 is above high=1"):
        rank(["a"], np.array([1.0]), RuleConfig("range", low=2, high=1))
    with pytest.raises(UserError, match="one score for each id"):
        rank(["a", "b"], np.array([1.0]), RuleConfig())
