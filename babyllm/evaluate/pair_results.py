"""How well scores rank the chosen answer above the rejected one, from sums that ranks can add up.

scores of pairs -> pair_sums on each rank -> Runtime.sum -> pair_results
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

N_BINS = 10
"""Bins of the calibration error."""
RESULTS = ("loss", "accuracy", "accuracy_stderr", "longer", "score/chosen", "score/rejected", "margin", "calibration")
"""The names of what `pair_results` returns."""
_PLAIN = ("n", "nats", "right", "chosen", "rejected", "margin", "longer")
N_SUMS = len(_PLAIN) + 2 * N_BINS
"""The number of sums that `pair_sums` returns."""


def pair_sums(scores: NDArray[np.float64], lengths: NDArray[np.int64]) -> list[float]:
    """The sums over pairs that `pair_results` reads.

    Args:
        scores: (n, 2) scores of the chosen and of the rejected answers.
        lengths: (n, 2) their tokens.
    """
    margins = scores[:, 0] - scores[:, 1]
    sums = {
        "n": float(len(margins)),
        "nats": float(np.logaddexp(0, -margins).sum()),
        "right": _wins(margins),
        "chosen": float(scores[:, 0].sum()),
        "rejected": float(scores[:, 1].sum()),
        "margin": float(margins.sum()),
        "longer": _wins((lengths[:, 0] - lengths[:, 1]).astype(np.float64)),
    }
    # The model says that one of the two is better, with a confidence from one half to one.
    confidence = 1 / (1 + np.exp(-np.abs(margins)))
    bins = np.minimum(((confidence - 0.5) * 2 * N_BINS).astype(np.int64), N_BINS - 1)
    of_bins = [np.bincount(bins, weights, N_BINS) for weights in (confidence, (margins > 0) + 0.5 * (margins == 0))]
    return [*(sums[name] for name in _PLAIN), *np.concatenate(of_bins).tolist()]


def _wins(margins: NDArray[np.float64]) -> float:
    """The number of positive margins, and half of those that are 0."""
    return float((margins > 0).sum() + 0.5 * (margins == 0).sum())


def pair_results(sums: list[float]) -> dict[str, float]:
    """The results of sums over all pairs.

    Returns:
        loss: mean of -log sigmoid(margin), in nats.
        accuracy, accuracy_stderr: share of pairs whose chosen answer has the higher score, and its standard error.
        longer: the same share for a rule that prefers the longer answer.
        score/chosen, score/rejected, margin: means.
        calibration: mean distance of confidence and accuracy, over 10 bins of confidence (Guo et al. 2017, equation 3).
    """
    of = dict(zip(_PLAIN, sums, strict=False))
    n, confidence, right = of["n"], np.array(sums[len(_PLAIN) : -N_BINS]), np.array(sums[-N_BINS:])
    accuracy = of["right"] / n
    error = (accuracy * (1 - accuracy) / max(n - 1, 1)) ** 0.5
    means = [of[name] / n for name in ("longer", "chosen", "rejected", "margin")]
    found = [of["nats"] / n, accuracy, error, *means, float(np.abs(confidence - right).sum()) / n]
    return dict(zip(RESULTS, found, strict=True))
