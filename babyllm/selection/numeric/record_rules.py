"""Which of the records with scores stay: the best, those in a range, or a draw in which better ones are likelier.

A rule puts records into one order, and n records are the first n of it. So what a smaller n keeps, a larger one keeps
too, whatever the rule. Draws are keyed by the record's id and the seed.

A weighted draw is that of Efraimidis and Spirakis 2006, Weighted Random Sampling with a Reservoir: records in ascending
order of -ln(u) / w, u uniform in (0, 1) and w the weight, are drawn one after another, each with a probability
proportional to its weight among those that are left.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from babyllm.config.values import Finite, Seed
from babyllm.errors import UserError
from babyllm.selection.numeric.keys import text_keys, uniform
from babyllm.selection.numeric.vectors import F64, Rows


@dataclass(frozen=True)
class RuleConfig:
    """How records with scores are chosen.

    Attributes:
        name: rule: top or bottom (the highest or the lowest scores), range (a random choice of those with scores from
            `low` to `high`), random (whatever the score), linear or logarithmic (random, but a record is less likely
            the lower its score ranks). With m records, the weight of rank r, from 1, is (m + 1 - r) / m in linear and
            1 - ln(r) / ln(m + 1) in logarithmic, which keeps more of the best.
        low: smallest score of the range; null for no limit.
        high: largest score of the range; null for no limit.
        seed: seed of the draws.
    """

    name: Literal["top", "bottom", "range", "random", "linear", "logarithmic"] = "top"
    low: Finite | None = None
    high: Finite | None = None
    seed: Seed = 0


class Ranking(NamedTuple):
    """Records in the order in which they are kept, and how many can never be.

    Attributes:
        rows: (m,) int64 record numbers; the first n are kept if n are asked for.
        n_nan: number of records whose score is not a number.
        n_outside: number of records whose score is outside the range.
    """

    rows: Rows
    n_nan: int
    n_outside: int


def linear_weights(m: int) -> F64:
    """(m,) float64 weights of ranks, from 1 for the best down to 1 / m: they fall linearly with the rank."""
    return np.arange(m, 0, -1) / max(m, 1)


def logarithmic_weights(m: int) -> F64:
    """(m,) float64 weights of ranks, from 1 for the best to above 0: they fall linearly with the rank's logarithm.

    This is a definition of our own: half of the weight is on about a fifth of the ranks.
    """
    return np.asarray(1 - np.log(np.arange(1, m + 1)) / np.log(m + 1))


_WEIGHTS: dict[str, Callable[[int], F64]] = {"linear": linear_weights, "logarithmic": logarithmic_weights}


def rank(ids: Sequence[str], scores: NDArray[Any], config: RuleConfig) -> Ranking:
    """Put records into the order in which a rule keeps them.

    Equal scores are in the order of their ids, and records with equal ids in the order of the input.

    Args:
        ids: m names of records, which key the draws; they should differ.
        scores: (m,) scores of any real type, where NaN is a score that is missing.
        config: the rule.

    Raises:
        UserError: there are not as many scores as ids, or the range is empty.
    """
    values = np.asarray(scores, np.float64)
    if values.shape != (len(ids),):
        raise UserError(f"{len(ids):,} ids and scores of shape {values.shape}: there must be one score for each id")
    low, high = config.low, config.high
    if low is not None and high is not None and low > high:
        raise UserError(f"low={low} is above high={high}: no score can be in this range")
    valid = ~np.isnan(values)
    inside = valid.copy()
    if config.name == "range":
        inside &= values >= (-np.inf if low is None else low)
        inside &= values <= (np.inf if high is None else high)
    by_id = np.array(sorted(np.flatnonzero(inside).tolist(), key=ids.__getitem__), np.int64)
    rows = _ordered(by_id, ids, values[by_id], config)
    return Ranking(rows, int((~valid).sum()), int((valid & ~inside).sum()))


def _ordered(rows: Rows, ids: Sequence[str], scores: F64, config: RuleConfig) -> Rows:
    """Records, which are in the order of their ids, in the order of the rule."""
    if config.name == "bottom":
        return rows[np.argsort(scores, kind="stable")]
    if config.name in ("range", "random"):
        return rows[np.argsort(uniform(text_keys(ids[row] for row in rows), config.seed), kind="stable")]
    rows = rows[np.argsort(-scores, kind="stable")]
    if config.name == "top":
        return rows
    draws = uniform(text_keys(ids[row] for row in rows), config.seed)
    return rows[np.argsort(-np.log(draws) / _WEIGHTS[config.name](len(rows)), kind="stable")]


def staged(rows: Rows, shares: Sequence[float]) -> list[Rows]:
    """Nested subsets of growing size: the first records of an order.

    Args:
        rows: (m,) record numbers in the order in which they are kept, as `Ranking.rows`.
        shares: ascending shares of m, each above 0 and at most 1, such as [0.05, 0.1, 0.2].

    Returns:
        One array a share, of round(share * m) records and at least one of any.

    Raises:
        UserError: the shares are not ascending or not within (0, 1].
    """
    edges = [0.0, *shares]
    if any(not a < b <= 1 for a, b in pairwise(edges)):
        raise UserError(f"shares {list(shares)}: must be ascending, above 0 and at most 1, such as [0.05, 0.1]")
    return [rows[: max(1, int(share * len(rows) + 0.5))] for share in shares]
