"""How well a classifier knows labels, from sums that ranks can add up.

labels, logits -> label_sums on each rank -> Runtime.sum -> label_results
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

RESULTS = ("loss", "accuracy", "accuracy_stderr", "macro_f1", "majority")
"""The names of what `label_results` returns."""


def label_sums(labels: NDArray[np.int64], logits: NDArray[np.float64]) -> list[float]:
    """The sums over texts that `label_results` reads.

    Args:
        labels: (n,) numbers of the right labels.
        logits: (n, N) outputs of the classifier.

    Returns:
        The nats, then (N, N) numbers of texts by right and by chosen label, row by row.
    """
    n_labels = logits.shape[1]
    shifted = logits - logits.max(1, keepdims=True, initial=-np.inf)
    nats = np.log(np.exp(shifted).sum(1)) - shifted[np.arange(len(labels)), labels]
    counts = np.bincount(labels * n_labels + logits.argmax(1), minlength=n_labels**2)
    return [float(nats.sum()), *counts.astype(np.float64).tolist()]


def label_results(sums: list[float]) -> dict[str, float]:
    """The results of sums over all texts.

    Returns:
        loss: cross-entropy in nats per text.
        accuracy, accuracy_stderr: share of texts whose label is chosen, and its standard error.
        macro_f1: mean over labels of 2 * right / (chosen + there), 0 for a label that is neither chosen nor there.
        majority: share of the most frequent label, which is the accuracy of always choosing it.
    """
    n_labels = round((len(sums) - 1) ** 0.5)
    counts = np.array(sums[1:]).reshape(n_labels, n_labels)
    n, right, there = counts.sum(), counts.diagonal(), counts.sum(1)
    accuracy = float(right.sum() / n)
    error = (accuracy * (1 - accuracy) / max(n - 1, 1)) ** 0.5
    f1 = 2 * right / np.maximum(there + counts.sum(0), 1)
    found = (sums[0] / float(n), accuracy, float(error), float(f1.mean()), float(there.max() / n))
    return dict(zip(RESULTS, found, strict=True))
