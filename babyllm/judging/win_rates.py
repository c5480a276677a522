"""Win rates with confidence intervals, plain and controlled for length.

A preference is 1 where A wins, 0 where B wins, 0.5 for a tie. Answers to one prompt are a cluster.

Plain: the mean, with Wilson's interval (Wilson 1927) for the number of independent answers that would have its
clustered standard error: n = p (1 - p) / error^2. It stays within 0 and 1, and has a width even if one side wins all.

Controlled for length: the idea of length-controlled AlpacaEval (Dubois et al. 2024, arXiv:2404.04475), with the two
terms that a comparison of two models needs:

    P(A wins) = sigmoid(a + b tanh(d / s))        d = characters of A - characters of B,  s = standard deviation of d

fitted to the preferences by maximum likelihood, with a weak normal prior for b. The controlled win rate is sigmoid(a),
that at equal length. Its interval is that of a, whose error is the larger one of two estimates: the sandwich over
clusters, and the inverse Hessian. Where lengths separate wins from losses, the first is too small.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

# One over the variances of the priors of a and b. Length hardly ever changes the odds by more than e^6.
_PENALTY = np.diag([1e-3, 1 / 9])
_STEPS = 100


class WinRate(NamedTuple):
    """A win rate and its 95 % confidence interval."""

    value: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """What the interval says about the two sides."""
        if self.low > 0.5:
            return "A is better"
        return "B is better" if self.high < 0.5 else "not distinguished"


def win_rate(preferences: Sequence[float], clusters: Sequence[Hashable]) -> WinRate:
    """The mean preference for A.

    Args:
        preferences: (n,) numbers from 0 to 1, at least one.
        clusters: (n,) the prompt of each.
    """
    from babyllm.evaluate.statistics import mean_estimate

    p, error, _, n_clusters = mean_estimate(preferences, clusters)
    if n_clusters < 2:
        return WinRate(p, 0.0, 1.0)
    n = p * (1 - p) / error**2 if error > 0 else float(n_clusters)
    z2 = _quantile(n_clusters) ** 2
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    reach = math.sqrt(z2 * (p * (1 - p) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    return WinRate(p, max(0.0, centre - reach), min(1.0, centre + reach))


def length_controlled(
    preferences: Sequence[float], differences: Sequence[float], clusters: Sequence[Hashable]
) -> WinRate | None:
    """The preference for A at equal length; None if the data cannot say, as with equal preferences or lengths.

    Args:
        preferences: (n,) numbers from 0 to 1.
        differences: (n,) characters of A less those of B.
        clusters: (n,) the prompt of each.
    """
    y, d = np.asarray(preferences, np.float64), np.asarray(differences, np.float64)
    names = {name: number for number, name in enumerate(dict.fromkeys(clusters))}
    if len(names) < 3 or np.ptp(y) == 0 or np.std(d) == 0:
        return None
    x = np.stack([np.ones_like(d), np.tanh(d / np.std(d))], axis=1)
    weights, inverse = _fitted(x, y)
    residuals = x * (y - _sigmoid(x @ weights))[:, None]
    sums = np.zeros((len(names), 2))
    np.add.at(sums, [names[name] for name in clusters], residuals)
    covariance = inverse @ (sums.T @ sums) @ inverse * len(names) / (len(names) - 1)
    reach = _quantile(len(names)) * math.sqrt(max(covariance[0, 0], inverse[0, 0]))
    low, value, high = (float(_sigmoid(weights[0] + shift)) for shift in (-reach, 0.0, reach))
    return WinRate(value, low, high)


def _fitted(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The weights of a logistic regression by Newton's method, and the inverse of the Hessian there."""
    weights = np.zeros(x.shape[1])
    for _ in range(_STEPS):
        p = _sigmoid(x @ weights)
        inverse = np.linalg.inv((x.T * (p * (1 - p))) @ x + _PENALTY)
        step = inverse @ (x.T @ (y - p) - _PENALTY @ weights)
        weights = weights + step / max(1.0, float(np.abs(step).max()))  # a step of at most 1 does not overshoot
        if np.abs(step).max() < 1e-10:
            break
    return weights, inverse


def _sigmoid(x: NDArray[np.float64] | float) -> NDArray[np.float64]:
    return np.asarray(0.5 * (1 + np.tanh(np.asarray(x) / 2)))


def _quantile(n_clusters: int) -> float:
    """The 97.5 % quantile of Student's t with one degree of freedom fewer than there are clusters."""
    from scipy.special import stdtrit  # takes a moment to import

    return float(stdtrit(n_clusters - 1, 0.975))
