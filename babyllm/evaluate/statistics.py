"""Means with honest errors: standard errors over clusters, a verdict against chance, and paired comparisons.

Items of one subject, paradigm or document are not independent. Their errors are added within the cluster first:

    error^2 = G / (G - 1) * sum over clusters of (sum over its items of (x - mean))^2 / n^2

(Liang and Zeger 1986, with the correction for G clusters). If each item is a cluster of its own, this is the usual
standard error. Intervals and p-values are of Student's t with G - 1 degrees of freedom.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

CONFIDENCE = 0.95
_NORMAL = 1.959964  # the normal distribution has 95 % of its mass within this many standard deviations
Verdict = Literal["above chance", "not distinguished from chance", "below chance", "too few to say"]


class Estimate(NamedTuple):
    """A mean and its standard error.

    Attributes:
        value: mean of the items.
        error: standard error of the mean, over clusters; NaN for a single cluster.
        n: number of items.
        n_clusters: number of clusters.
    """

    value: float
    error: float
    n: int
    n_clusters: int

    @property
    def interval(self) -> tuple[float, float]:
        """The lower and upper end of the 95 % confidence interval; NaN for a single cluster."""
        if not self.error > 0:
            return (self.value - self.error, self.value + self.error)
        from scipy.special import stdtrit  # takes a moment to import

        reach = self.error * float(stdtrit(self.n_clusters - 1, (1 + CONFIDENCE) / 2))
        return (self.value - reach, self.value + reach)

    @property
    def share_interval(self) -> tuple[float, float]:
        """The 95 % interval of a share; if all items score 0, or all 1, that of Wilson (1927) over clusters.

        The usual interval has no width there, as if nothing else could happen.
        """
        if self.error != 0 or self.value not in (0.0, 1.0):
            return self.interval
        room = _NORMAL**2 / (self.n_clusters + _NORMAL**2)
        return (0.0, room) if self.value == 0 else (1 - room, 1.0)

    def p_value(self, expected: float) -> float:
        """The two-sided p-value of the hypothesis that the true mean is `expected`; NaN for a single cluster."""
        gap = abs(self.value - expected)
        if self.error == 0:
            return 0.0 if gap else 1.0
        if math.isnan(self.error):
            return math.nan
        from scipy.special import stdtr

        return float(2 * stdtr(self.n_clusters - 1, -gap / self.error))


def mean_estimate(values: ArrayLike, clusters: Sequence[Hashable] | None = None) -> Estimate:
    """The mean of values and its standard error over clusters.

    Args:
        values: (n,) numbers, at least one.
        clusters: (n,) the cluster of each value; None makes each value a cluster of its own.
    """
    x = np.asarray(values, np.float64)
    return ratio_estimate(x, np.ones_like(x), clusters)


def ratio_estimate(
    numerators: ArrayLike, denominators: ArrayLike, clusters: Sequence[Hashable] | None = None
) -> Estimate:
    """The ratio of two sums, such as bits per byte, and its standard error over clusters.

    With r the ratio, the error is that of the residuals x - r y over the sum of y (Cochran 1977, section 2.11).

    Args:
        numerators: (n,) numbers, at least one.
        denominators: (n,) numbers with a sum above 0.
        clusters: (n,) the cluster of each pair; None makes each pair a cluster of its own.
    """
    x, y = np.asarray(numerators, np.float64), np.asarray(denominators, np.float64)
    total = math.fsum(y)
    ratio = math.fsum(x) / total
    sums = _cluster_sums(x - ratio * y, clusters)
    n = len(sums)
    # Residuals of equal values are rounding errors rather than zeros.
    spread = 0.0 if np.ptp(x) == 0 and np.ptp(y) == 0 else math.fsum(sums**2)
    error = math.sqrt(spread * n / (n - 1)) / total if n > 1 else math.nan
    return Estimate(ratio, error, len(x), n)


def paired_difference(
    ours: ArrayLike, theirs: ArrayLike, clusters: Sequence[Hashable] | None = None
) -> tuple[Estimate, float]:
    """The mean difference of two models on the same items, ours - theirs, and the two-sided p-value of no difference.

    Args:
        ours: (n,) results of the first model.
        theirs: (n,) results of the second model on the same items, in the same order.
        clusters: (n,) the cluster of each item; None makes each item a cluster of its own.
    """
    difference = mean_estimate(np.asarray(ours, np.float64) - np.asarray(theirs, np.float64), clusters)
    return difference, difference.p_value(0.0)


def verdict(estimate: Estimate, chance: float) -> Verdict:
    """What an accuracy says about a model that might be guessing: whether its interval leaves out the chance level."""
    low, high = estimate.share_interval
    if math.isnan(low):
        return "too few to say"
    if low > chance:
        return "above chance"
    return "below chance" if high < chance else "not distinguished from chance"


def _cluster_sums(values: NDArray[np.float64], clusters: Sequence[Hashable] | None) -> NDArray[np.float64]:
    if clusters is None:
        return values
    numbers: dict[Hashable, int] = {}
    of_value = [numbers.setdefault(cluster, len(numbers)) for cluster in clusters]
    sums: NDArray[np.float64] = np.bincount(of_value, values, len(numbers)).astype(np.float64)
    return sums
