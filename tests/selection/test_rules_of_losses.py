"""The linear quality rule and the weights of domains, against formulas and properties."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from babyllm.errors import UserError
from babyllm.selection.numeric.doremi import DoReMiConfig, average, update
from babyllm.selection.numeric.quality_rule import fit, load


def experiments(n: int = 80) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Indicators of unlike sizes, and losses that depend on two of them."""
    rng = np.random.default_rng(4)
    found = {
        "length": rng.normal(300, 80, n),
        "reward": rng.normal(-1, 0.4, n),
        "perplexity": rng.lognormal(3, 1, n),
    }
    log_loss = 1.2 - 0.3 * found["reward"] + 0.001 * found["length"] + rng.normal(0, 0.05, n)
    return found, np.exp(log_loss)


def test_one_indicator_is_fitted_like_scipy_does() -> None:
    """With one indicator, slope, its standard error and R^2 are those of scipy's regression."""
    found, losses = experiments()
    rule = fit({"reward": found["reward"]}, losses)
    x = (found["reward"] - found["reward"].mean()) / found["reward"].std()
    known = stats.linregress(x, np.log(losses))
    [term] = rule.terms
    assert (term.coefficient, term.error) == pytest.approx((known.slope, known.stderr))
    assert (rule.intercept, rule.intercept_error) == pytest.approx((known.intercept, known.intercept_stderr))
    assert rule.r2 == pytest.approx(known.rvalue**2)


def test_several_indicators_satisfy_the_normal_equations() -> None:
    """Coefficients, errors and R^2 equal the textbook formulas, and the true dependence is found."""
    found, losses = experiments()
    rule = fit(found, losses)
    x = np.stack([np.ones(80), *((v - v.mean()) / v.std() for v in found.values())], axis=1)
    y = np.log(losses)
    inverse = np.linalg.inv(x.T @ x)
    beta = inverse @ x.T @ y
    residual = y - x @ beta
    errors = np.sqrt(np.diag(inverse) * (residual @ residual) / (80 - 4))
    assert [rule.intercept, *(t.coefficient for t in rule.terms)] == pytest.approx(beta.tolist())
    assert [rule.intercept_error, *(t.error for t in rule.terms)] == pytest.approx(errors.tolist())
    assert rule.r2 == pytest.approx(1 - residual @ residual / ((y - y.mean()) ** 2).sum())
    length, reward, perplexity = rule.terms
    assert reward.coefficient / reward.deviation == pytest.approx(-0.3, abs=0.05)
    assert abs(length.coefficient) > 5 * length.error and abs(perplexity.coefficient) < 4 * perplexity.error


def test_a_rule_survives_its_file(tmp_path: Path) -> None:
    """A rule that is read again is the same, and predicts ln(loss) for records, NaN where a number is missing."""
    found, losses = experiments()
    found["length"][3], losses[5] = np.nan, np.nan
    rule = fit(found, losses)
    assert (rule.rows, rule.rows_left_out) == (78, 2)
    rule.save(tmp_path / "rule.json")
    assert load(tmp_path / "rule.json") == rule
    predicted = rule.predict({"unused": np.zeros(80), **dict(reversed(found.items()))})
    assert np.flatnonzero(np.isnan(predicted)).tolist() == [3]
    by_hand = rule.intercept + sum(t.coefficient * (found[t.name][0] - t.mean) / t.deviation for t in rule.terms)
    assert predicted[0] == pytest.approx(by_hand)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f, y: (dict.fromkeys("abcd", y[:5]), y[:5]), "a rule of 4 indicators needs 6 at least"),
        (lambda f, y: ({**f, "flat": np.full(80, 7.1)}, y), "indicator flat: is the same in all rows"),
        (lambda f, y: ({**f, "twice": 2 * f["reward"] - f["length"]}, y), "indicator twice: follows from those"),
        (lambda f, y: ({**f, "short": y[:9]}, y), "indicator short: has shape"),
        (lambda f, y: ({**f, "long": y / 0}, y), "indicator long: has an infinite number"),
        (lambda f, y: (f, -y), "above 0"),
        (lambda f, y: (f, y * 0 + 2), "are the same in all rows"),
        (lambda f, y: (f, y[:3]), "one loss a row"),
        (lambda f, y: ({}, y), "at least one"),
    ],
)
def test_what_cannot_be_fitted_is_refused(change: object, message: str) -> None:
    """Too few rows, indicators that say nothing of their own, and losses without a logarithm are refused by name."""
    with np.errstate(divide="ignore"):
        found, losses = change(*experiments())  # type: ignore[operator]
    with pytest.raises(UserError, match=message):
        fit(found, losses)


@pytest.mark.parametrize(
    "change",
    [{"kind": "x"}, {"terms": 3}, {"terms": [3]}, {"intercept": "a"}, {"r2": None}, {"rows": 0.5}],
)
def test_a_damaged_rule_is_refused(change: dict[str, object], tmp_path: Path) -> None:
    """A file that is not a rule, or lacks a number, is refused by its path."""
    path = tmp_path / "rule.json"
    fit(*experiments()).save(path)
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **change}), encoding="utf-8")
    with pytest.raises(UserError, match=r"rule\.json: "):
        load(path)


def test_a_rule_needs_its_indicators() -> None:
    """A record set without an indicator of the rule is refused."""
    rule = fit(*experiments())
    with pytest.raises(UserError, match="indicator reward: the rule needs it"):
        rule.predict({"length": np.ones(2), "perplexity": np.ones(2)})


WEIGHTS = st.lists(st.tuples(st.floats(0.01, 1), st.floats(0, 2000)), min_size=1, max_size=6)


@given(WEIGHTS, st.floats(0.001, 0.9))
def test_weights_stay_a_distribution(domains: list[tuple[float, float]], smoothing: float) -> None:
    """Whatever the losses, weights add up to 1 and none is below its share of the uniform distribution."""
    weights, losses = np.array(domains).T
    found = update(weights / weights.sum(), losses, DoReMiConfig(smoothing=smoothing))
    assert found.sum() == pytest.approx(1) and (found >= smoothing / len(found) * (1 - 1e-12)).all()


def test_weights_follow_the_formula() -> None:
    """One update is the formula of the paper, and equal losses only smooth."""
    weights, losses = np.array([0.2, 0.3, 0.5]), np.array([0.1, 0.7, 0.0])
    raised = weights * np.exp(2 * losses)
    expected = 0.9 * raised / raised.sum() + 0.1 / 3
    assert update(weights, losses, DoReMiConfig(2.0, 0.1)) == pytest.approx(expected)
    assert update(weights, np.full(3, 9.0), DoReMiConfig(1.0, 0.0)) == pytest.approx(weights)
    assert average(np.array([[0.2, 0.8], [0.6, 0.4]])) == pytest.approx([0.4, 0.6])


@pytest.mark.parametrize(
    ("weights", "losses", "message"),
    [
        ([0.5, 0.5], [1.0], "one for each domain"),
        ([1.0, 0.0], [1.0, 1.0], "must be above 0"),
        ([0.5, 0.5], [1.0, np.nan], "finite and at least 0"),
        ([0.5, 0.5], [1.0, -1.0], "finite and at least 0"),
    ],
)
def test_weights_that_cannot_be_updated_are_refused(weights: list[float], losses: list[float], message: str) -> None:
    """Numbers of domains that differ, weights of 0 and losses that are not numbers are refused."""
    with pytest.raises(UserError, match=message):
        update(np.array(weights), np.array(losses), DoReMiConfig())
    with pytest.raises(UserError, match="one step at least"):
        average(np.empty((0, 2)))
