"""Arms against a control: means, paired differences, intervals, Holm's correction and verdicts."""

import math

import numpy as np
import pytest

from babyllm.studies.paired_arms import compare_arms, holm, unequal_tokens

# Student's t that leaves out 2.5 % on each side, from tables.
T = {1: 12.7062, 2: 4.30265, 3: 3.18245}


def arms(**values: list[float]) -> dict[str, dict[int, float]]:
    """The values of arms by seed."""
    return {arm: dict(enumerate(each, 1)) for arm, each in values.items()}


@pytest.mark.parametrize("n", [2, 3, 4])
def test_differences_are_paired_by_seed(n: int) -> None:
    """Mean, standard error and 95 % interval are those of the n differences, with n - 1 degrees of freedom."""
    rng = np.random.default_rng(n)
    a, b = rng.normal(2, 1, n), rng.normal(2, 0.1, n)
    found = compare_arms(arms(control=a.tolist(), arm=b.tolist()), "control", True)[1]
    gaps = b - a
    error = gaps.std(ddof=1) / math.sqrt(n)
    assert found.difference is not None and found.mean is not None
    assert found.mean.value == pytest.approx(b.mean())
    assert found.mean.error == pytest.approx(b.std(ddof=1) / math.sqrt(n))
    assert found.difference.value == pytest.approx(gaps.mean()) and found.difference.error == pytest.approx(error)
    reach = T[n - 1] * error
    assert found.difference.interval == pytest.approx((gaps.mean() - reach, gaps.mean() + reach), rel=1e-4)
    assert found.smallest == pytest.approx(reach, rel=1e-4)


def test_the_p_value_of_two_pairs_is_that_of_cauchy() -> None:
    """With one degree of freedom Student's t is Cauchy's distribution: p = 1 - 2 atan(t) / pi."""
    found = compare_arms(arms(control=[1.0, 1.2], arm=[1.4, 1.9]), "control", True)[1]
    gaps = np.array([0.4, 0.7])
    t = gaps.mean() / (gaps.std(ddof=1) / math.sqrt(2))
    assert found.p == pytest.approx(1 - 2 * math.atan(t) / math.pi)
    assert found.p_holm == found.p  # a single comparison


def test_pairing_shows_what_means_alone_would_not() -> None:
    """Seeds that move both arms alike leave the interval narrow."""
    values = arms(control=[1.0, 2.0, 3.0], arm=[0.9, 1.91, 2.89])
    found = compare_arms(values, "control", True)[1]
    assert found.mean and found.mean.error > 0.5
    assert found.verdict == "better"
    assert compare_arms(values, "control", False)[1].verdict == "worse"
    assert compare_arms(values, "arm", True)[0].verdict == "worse"


def test_an_interval_that_holds_0_shows_no_difference() -> None:
    """Equal arms, and arms whose differences have both signs, show no difference."""
    values = arms(control=[1.0, 2.0, 3.0], same=[1.0, 2.0, 3.0], other=[1.1, 1.9, 3.05])
    found = compare_arms(values, "control", True)
    assert [each.verdict for each in found] == ["control", "no difference shown", "no difference shown"]
    assert found[1].p == 1


def test_one_seed_says_nothing() -> None:
    """With one seed there is a difference, but no interval, no p-value and no verdict."""
    found = compare_arms(arms(control=[1.0], arm=[0.5]), "control", True)[1]
    assert found.difference and found.difference.value == -0.5
    assert math.isnan(found.p) and math.isnan(found.p_holm) and math.isnan(found.smallest)
    assert found.verdict == "one seed: cannot say"


def test_only_seeds_that_both_have_are_paired() -> None:
    """A missing run leaves its pair out of the difference, and not out of the arm's mean."""
    values = {"control": {1: 1.0, 2: 2.0, 3: 5.0}, "arm": {2: 2.5, 3: 5.5, 4: 9.0}, "gone": {}}
    control, arm, gone = compare_arms(values, "control", True)
    assert arm.difference and arm.difference.n == 2 and arm.difference.value == 0.5
    assert arm.mean and arm.mean.n == 3 and control.mean and control.mean.n == 3
    assert (gone.mean, gone.difference, gone.verdict) == (None, None, "no result")


def test_holm_multiplies_by_the_tests_that_are_left() -> None:
    """The k-th smallest of m p-values is multiplied by m - k + 1; order is kept, and nothing exceeds 1."""
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.02, 0.02]) == pytest.approx([0.04, 0.04])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []
    found = holm([math.nan, 0.03, 0.5])
    assert math.isnan(found[0]) and found[1:] == pytest.approx([0.06, 0.5])


def test_among_several_arms_the_corrected_p_decides() -> None:
    """An arm whose own interval leaves out 0 by little is not called better among many."""
    rng = np.random.default_rng(0)
    control = [1.0, 2.0, 3.0]
    lucky = [0.9, 1.88, 2.93]
    alone = compare_arms(arms(control=control, lucky=lucky), "control", True)[1]
    assert alone.verdict == "better" and 0.01 < alone.p < 0.05
    others = {f"arm{i}": (np.array(control) + rng.normal(0, 1, 3)).tolist() for i in range(5)}
    among = compare_arms(arms(control=control, lucky=lucky, **others), "control", True)[1]
    assert among.p == alone.p and among.p_holm == pytest.approx(6 * alone.p)
    assert among.verdict == "no difference shown among several (better alone)"


def test_equal_arms_are_called_different_at_the_nominal_rate() -> None:
    """In 2,000 studies of three equal arms and three seeds, about 5 % find any difference."""
    rng = np.random.default_rng(5)
    n_found = 0
    for _ in range(2000):
        seeds = rng.normal(0, 1, 3)
        values = arms(**{name: (seeds + rng.normal(0, 0.1, 3)).tolist() for name in ("control", "a", "b")})
        n_found += any(each.verdict in ("better", "worse") for each in compare_arms(values, "control", True))
    assert 60 <= n_found <= 132  # at most 100 expected, about 90 as both share the control


def test_unequal_tokens_are_noticed() -> None:
    """An arm with more than 1 % more or fewer tokens than the control is named."""
    tokens = {"control": 1000.0, "near": 1009.0, "more": 1011.0, "fewer": 900.0}
    assert unequal_tokens(tokens, "control") == ["more", "fewer"]
    assert unequal_tokens({"a": 3.0}, "gone") == []
