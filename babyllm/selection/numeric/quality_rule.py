"""A linear rule that predicts how useful records are from numbers that are cheap to compute.

Cao et al. 2023, Instruction Mining: Instruction Data Selection for Tuning Large Language Models (arXiv:2307.06290),
section 3: ln(loss) = b_0 + sum over i of b_i * I_i + an error, where the loss is that of a model on an evaluation set
after it learned from some records, and the I_i are means of indicators over these records: length, reward, perplexity,
distance to neighbours and so on. The rule is fitted by least squares and then applied to the indicators of each record
by itself; a small predicted loss means a good record.

Indicators are standardised here, (x - mean) / deviation over the rows of the fit, so coefficients can be compared: b_i
is the change of ln(loss) by one standard deviation of indicator i.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from babyllm.config.json_fields import Fields, read_json
from babyllm.errors import UserError
from babyllm.files import write_json
from babyllm.selection.numeric.vectors import F64

KIND = "babyllm linear quality rule"
_DEPENDENT = 1e-8  # share of an indicator's deviation that the others must leave unexplained


class Term(NamedTuple):
    """One indicator of a rule.

    Attributes:
        name: name of the indicator.
        mean: its mean over the rows of the fit.
        deviation: its standard deviation there, with n in the denominator.
        coefficient: change of ln(loss) by one deviation.
        error: standard error of the coefficient.
    """

    name: str
    mean: float
    deviation: float
    coefficient: float
    error: float


@dataclass(frozen=True)
class QualityRule:
    """A fitted rule.

    Attributes:
        intercept: predicted ln(loss) where all indicators have their means.
        intercept_error: standard error of the intercept.
        terms: indicators with their coefficients.
        r2: share of the variance of ln(loss) that the rule explains, R^2.
        rows: number of rows of the fit.
        rows_left_out: number of rows that were left out, since a number was missing.
    """

    intercept: float
    intercept_error: float
    terms: tuple[Term, ...]
    r2: float
    rows: int
    rows_left_out: int = 0

    def predict(self, indicators: Mapping[str, NDArray[Any]]) -> F64:
        """(n,) float64 predicted ln(loss) of n records, NaN where an indicator is missing (NaN); lower is better.

        Args:
            indicators: (n,) numbers by the name of the indicator; others than those of the rule are ignored.

        Raises:
            UserError: an indicator of the rule is not there, or they have different lengths.
        """
        values = _columns(indicators, [term.name for term in self.terms])
        means, deviations, coefficients = (
            np.array([getattr(term, field) for term in self.terms]) for field in ("mean", "deviation", "coefficient")
        )
        return np.asarray(self.intercept + ((values - means) / deviations * coefficients).sum(axis=1))

    def save(self, path: Path) -> None:
        """Write the rule as a JSON file for people to read."""
        terms = [term._asdict() for term in self.terms]
        write_json(path, {"kind": KIND, "predicts": "ln(loss)", **asdict(self), "terms": terms})


def fit(indicators: Mapping[str, NDArray[Any]], losses: NDArray[Any]) -> QualityRule:
    """Fit a rule by least squares; rows with a number that is missing (NaN) are left out and counted.

    Args:
        indicators: (n,) numbers by the name of the indicator, one for each row: a set of records, or one record.
        losses: (n,) losses above 0 after learning from each.

    Raises:
        UserError: there are too few rows for an error, or numbers that are infinite; a loss is not above 0; an
            indicator is the same in all rows or follows from others; losses do not vary.
    """
    names = list(indicators)
    values, losses = _columns(indicators, names), np.asarray(losses, np.float64)
    if losses.shape != (len(values),):
        raise UserError(f"{len(values):,} rows of indicators and losses of shape {losses.shape}: need one loss a row")
    valid = ~(np.isnan(values).any(axis=1) | np.isnan(losses))
    n_left_out = int((~valid).sum())
    values, losses = values[valid], losses[valid]
    _check(names, values, losses)
    means, deviations = values.mean(axis=0), values.std(axis=0)
    for name, mean, deviation in zip(names, means, deviations, strict=True):
        if deviation <= 1e-12 * abs(mean):
            raise UserError(f"indicator {name}: is the same in all rows, so that it explains nothing; leave it out")
    design = np.column_stack([np.ones(len(values)), (values - means) / deviations])
    coefficients, errors, r2 = _least_squares(design, np.log(losses), names)
    columns = [means, deviations, coefficients[1:], errors[1:]]
    terms = tuple(
        Term(name, *map(float, row)) for name, row in zip(names, np.stack(columns, axis=1).tolist(), strict=True)
    )
    return QualityRule(float(coefficients[0]), float(errors[0]), terms, r2, len(values), n_left_out)


def load(path: Path) -> QualityRule:
    """Read a rule that `QualityRule.save` wrote.

    Raises:
        UserError: the file cannot be read, is not such a rule or has a wrong number.
    """
    raw = read_json(path)
    fields = Fields(raw, str(path))
    if raw.get("kind") != KIND or not isinstance(raw.get("terms"), list):
        raise UserError(f"{path}: is not a rule that babyllm wrote: its kind is not {KIND!r}")
    terms = [_term(Fields(term if isinstance(term, dict) else {}, f"{path}: terms")) for term in raw["terms"]]
    return QualityRule(
        _number(fields, "intercept"),
        _number(fields, "intercept_error"),
        tuple(terms),
        _number(fields, "r2"),
        fields.integer("rows", high=1 << 53),
        fields.integer("rows_left_out", 0, low=0, high=1 << 53),
    )


def _term(fields: Fields) -> Term:
    return Term(
        fields.text("name"),
        _number(fields, "mean"),
        float(fields.number("deviation", low=1e-300, high=1e300)),
        _number(fields, "coefficient"),
        _number(fields, "error"),
    )


def _number(fields: Fields, key: str) -> float:
    return float(fields.number(key, low=-1e300, high=1e300))


def _columns(indicators: Mapping[str, NDArray[Any]], names: Sequence[str]) -> F64:
    """(n, indicators) float64, the named indicators side by side."""
    if missing := [name for name in names if name not in indicators]:
        raise UserError(f"indicator {missing[0]}: the rule needs it, and there are only {', '.join(indicators)}")
    if not names:
        raise UserError("indicators: name at least one")
    columns = [np.asarray(indicators[name], np.float64) for name in names]
    for name, column in zip(names, columns, strict=True):
        if column.ndim != 1 or len(column) != len(columns[0]):
            raise UserError(f"indicator {name}: has shape {column.shape}, where {names[0]} has {columns[0].shape}")
    return np.stack(columns, axis=1)


def _check(names: Sequence[str], values: F64, losses: F64) -> None:
    """Check the rows of a fit."""
    needed = len(names) + 2
    if len(values) < needed:
        raise UserError(f"{len(values):,} rows: a rule of {len(names)} indicators needs {needed} at least")
    if not np.isfinite(values).all():
        raise UserError(f"indicator {names[int(np.argwhere(~np.isfinite(values))[0, 1])]}: has an infinite number")
    if not (np.isfinite(losses) & (losses > 0)).all():
        raise UserError("losses: need finite numbers above 0, whose logarithms can be taken")
    if losses.max() == losses.min():
        raise UserError("losses: are the same in all rows, so that nothing can be explained")


def _least_squares(design: F64, target: F64, names: Sequence[str]) -> tuple[F64, F64, float]:
    """Coefficients and their standard errors, (columns,) float64 both, and R^2, from the QR decomposition."""
    n, columns = design.shape
    q, r = np.linalg.qr(design)
    for i in range(1, columns):
        if abs(r[i, i]) < _DEPENDENT * n**0.5:
            raise UserError(f"indicator {names[i - 1]}: follows from those before it; leave one of them out")
    inverse = np.linalg.inv(r)
    coefficients = inverse @ (q.T @ target)
    squares = float(((target - design @ coefficients) ** 2).sum())
    errors = np.sqrt((inverse**2).sum(axis=1) * (squares / (n - columns)))
    return coefficients, errors, 1 - squares / float(((target - target.mean()) ** 2).sum())
