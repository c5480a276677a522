"""Win rates, their intervals, and the win rate at equal length."""

import math

import numpy as np
import pytest

from babyllm.judging.agreement import agreement
from babyllm.judging.win_rates import length_controlled, win_rate


def test_independent_wins_have_wilsons_interval() -> None:
    """For wins of prompts of their own the interval is Wilson's with Student's quantile, and always has a width."""
    found = win_rate([1.0] * 60 + [0.0] * 40, range(100))
    z, n = 1.9842169515, 99  # the clustered error has n - 1 in place of n
    centre, reach = 0.6 + z * z / (2 * n), z * math.sqrt(0.24 / n + z * z / (4 * n * n))
    assert found.value == pytest.approx(0.6)
    assert found.low == pytest.approx((centre - reach) / (1 + z * z / n), rel=1e-6)
    assert found.high == pytest.approx((centre + reach) / (1 + z * z / n), rel=1e-6)
    assert found.verdict == "A is better"
    always = win_rate([1.0] * 20, range(20))
    assert always.value == always.high == 1 and 0.8 < always.low < 0.85
    assert win_rate([1.0, 1.0], "xx") == (1.0, 0.0, 1.0)


def test_equal_prompts_widen_the_interval() -> None:
    """Answers to one prompt, which agree, count as few rather than as many."""
    values = [1.0] * 300 + [0.0] * 200
    few, many = win_rate(values, [i // 10 for i in range(500)]), win_rate(values, range(500))
    assert few.value == many.value and few.high - few.low > 2.5 * (many.high - many.low)
    assert (few.verdict, many.verdict) == ("not distinguished", "A is better")


def test_the_interval_covers_the_true_rate() -> None:
    """In 500 simulated comparisons the interval over prompts leaves out the true rate at about its nominal 5 %."""
    rng = np.random.default_rng(0)
    missed = 0
    for _ in range(500):
        p = rng.beta(4, 4, size=(60, 1))  # every prompt has its own chance; the mean is one half
        values = (rng.random((60, 5)) < p).astype(float).ravel()
        found = win_rate(values.tolist(), np.repeat(np.arange(60), 5).tolist())
        missed += not found.low <= 0.5 <= found.high
    assert 10 <= missed <= 40


def test_a_judge_who_likes_length_is_corrected() -> None:
    """Where only length decides, the plain rate favours the longer side and the controlled rate neither."""
    rng = np.random.default_rng(1)
    rates, covered = [], 0
    for _ in range(40):
        d = rng.normal(150, 200, 400)
        wins = (rng.random(400) < 1 / (1 + np.exp(-2 * np.tanh(d / d.std())))).astype(float)
        found = length_controlled(wins.tolist(), d.tolist(), range(400))
        assert found is not None
        rates.append(found.value)
        covered += found.low <= 0.5 <= found.high
        assert win_rate(wins.tolist(), range(400)).low > 0.55
    assert np.mean(rates) == pytest.approx(0.5, abs=0.02) and covered >= 35


def test_length_control_says_when_it_cannot() -> None:
    """Equal preferences, equal lengths or two prompts allow no answer; lengths that decide all allow a finite one."""
    assert length_controlled([1.0] * 9, range(9), range(9)) is None
    assert length_controlled([1.0, 0.0, 1.0], [5, 5, 5], range(3)) is None
    assert length_controlled([1.0, 0.0, 1.0], [1, 2, 3], "aab") is None
    separated = length_controlled([0.0, 0.0, 1.0, 1.0], [-20, -10, 10, 20], range(4))
    assert separated and separated.value == pytest.approx(0.5) and separated.low >= 0


def test_kappa_takes_chance_out_of_agreement() -> None:
    """Cohen's example: 70 % of equal choices, half of them expected, is a kappa of 0.4."""
    ours = ["A"] * 25 + ["B"] * 25
    theirs = ["A"] * 20 + ["B"] * 5 + ["A"] * 10 + ["B"] * 15
    found = agreement(dict(enumerate(ours)), dict(enumerate(theirs)))  # type: ignore[arg-type]
    assert (found.n, found.share) == (50, 0.7) and found.kappa == pytest.approx(0.4)
    assert agreement({"a": "A", "b": None}, {"a": "A", "b": "B", "c": "tie"}) == (1, 1.0, None)
    assert agreement({"a": "A"}, {"b": "B"}) == (0, None, None)
