"""The values of metrics over many answers, with standard errors.

A value is the mean of its metric's scores, except for BLEU and chrF: these are functions of counts that are summed over
all answers, and their errors come from a bootstrap.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from babyllm.errors import UserError
from babyllm.evaluate.answer_metrics import METRICS
from babyllm.evaluate.answer_metrics.sacrebleu_scores import (
    bleu_counts,
    bleu_of_counts,
    chrf_counts,
    chrf_of_counts,
    require_sacrebleu,
)
from babyllm.evaluate.statistics import Estimate, mean_estimate

DRAWS = 1000
"""Number of samples of a bootstrap."""

Counts = Callable[[str, Sequence[str]], list[int]]
OfCounts = Callable[[Sequence[int]], float]
# The counts of one answer, and the metric as a function of their sums.
_OF_SUMS: dict[str, tuple[Counts, OfCounts]] = {
    "bleu": (bleu_counts, bleu_of_counts),
    "chrf": (chrf_counts, chrf_of_counts),
}


def require_metrics(names: Sequence[str]) -> None:
    """Check names of metrics and what they need, before any work.

    Raises:
        UserError: a name is unknown, or sacrebleu is not installed.
    """
    for name in names:
        if name not in METRICS:
            raise UserError(f"metric {name}: unknown; choose from {', '.join(METRICS)}")
        if name in _OF_SUMS:
            require_sacrebleu()


class AnswerScores:
    """The scores of answers under several metrics, added one by one; it keeps numbers and no texts.

    Attributes:
        n: number of answers.
    """

    def __init__(self, names: Sequence[str], seed: int = 0) -> None:
        """Begin without answers.

        Args:
            names: names of metrics, keys of `METRICS`.
            seed: seed of the bootstrap.

        Raises:
            UserError: as for `require_metrics`.
        """
        require_metrics(names)
        self.n, self._seed = 0, seed
        self._scores: dict[str, array[Any]] = {name: array("q" if name in _OF_SUMS else "d") for name in names}
        self._clusters: list[Hashable] = []

    def add(self, answer: str, references: Sequence[str], cluster: Hashable | None = None) -> None:
        """Score an answer.

        Args:
            answer: text of the answer.
            references: texts that would be right, at least one.
            cluster: subject or source that the answer shares with others, for the standard errors; None if it is
                independent of the others. Either all answers have one or none has.
        """
        for name, scores in self._scores.items():
            if name in _OF_SUMS:
                scores.extend(_OF_SUMS[name][0](answer, references))
            else:
                scores.append(METRICS[name](answer, references))
        if cluster is not None:
            self._clusters.append(cluster)
        self.n += 1

    def estimates(self) -> dict[str, Estimate]:
        """The value of each metric and its standard error; empty without answers."""
        clusters = self._clusters or None
        return {
            name: self._estimate(name, np.array(scores), clusters) for name, scores in self._scores.items() if self.n
        }

    def _estimate(self, name: str, scores: NDArray[np.float64], clusters: Sequence[Hashable] | None) -> Estimate:
        if name not in _OF_SUMS:
            return mean_estimate(scores, clusters)
        counts = _by_cluster(scores.reshape(self.n, -1).astype(np.int64), clusters)
        of_counts = _OF_SUMS[name][1]
        return Estimate(
            of_counts(counts.sum(0).tolist()), bootstrap_error(counts, of_counts, self._seed), self.n, len(counts)
        )


def bootstrap_error(counts: NDArray[np.int64], of_counts: OfCounts, seed: int = 0, draws: int = DRAWS) -> float:
    """The standard error of a function of sums, by a bootstrap (Efron 1979); NaN for a single item.

    Args:
        counts: (n, k) integers, a row for each item; items are drawn with replacement.
        of_counts: function of the k sums.
        seed: seed of the draws.
        draws: number of samples.
    """
    n = len(counts)
    if n < 2:
        return float("nan")
    random = np.random.default_rng(seed)
    sums = (np.bincount(random.integers(n, size=n), minlength=n) @ counts for _ in range(draws))
    return float(np.std([of_counts(total.tolist()) for total in sums], ddof=1))


def _by_cluster(counts: NDArray[np.int64], clusters: Sequence[Hashable] | None) -> NDArray[np.int64]:
    """The rows of each cluster added up."""
    if clusters is None:
        return counts
    numbers: dict[Hashable, int] = {}
    of_row = [numbers.setdefault(cluster, len(numbers)) for cluster in clusters]
    sums = np.zeros((len(numbers), counts.shape[1]), np.int64)
    np.add.at(sums, of_row, counts)
    return sums
