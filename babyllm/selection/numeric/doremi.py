"""Weights of domains from how much worse a model does on each than a reference model (DoReMi).

Xie et al. 2023, DoReMi: Optimizing Data Mixtures Speeds Up Language Model Pretraining (arXiv:2305.10429), algorithm 1.
The weights move towards domains on which a model's loss exceeds that of the reference model; the mean of the weights
over all updates is the mixture that larger models then learn from.

    excess losses by domain -> `update`: the next weights -> after the last update `average` of all of them
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from babyllm.config.values import Positive, ShareBelow1
from babyllm.errors import UserError
from babyllm.selection.numeric.vectors import F64


@dataclass(frozen=True)
class DoReMiConfig:
    """How the weights of domains follow from losses.

    Attributes:
        step_size: factor eta of the excess losses in the exponent.
        smoothing: share c of each update that is the uniform distribution, so that no domain vanishes.
    """

    step_size: Positive = 1.0
    smoothing: ShareBelow1 = 1e-3


def update(weights: F64, excess_losses: F64, config: DoReMiConfig) -> F64:
    """The weights of the next step: (1 - c) * a / sum(a) + c / domains, with a = weight * exp(eta * excess loss).

    Args:
        weights: (domains,) float64 weights above 0, whose sum is 1.
        excess_losses: (domains,) float64 mean excess losses in nats, at least 0.
        config: eta and c.

    Raises:
        UserError: the numbers of domains differ, a weight is not above 0, or a loss is not a finite number of at least
            0.
    """
    if weights.shape != excess_losses.shape:
        raise UserError(f"{len(weights)} weights and {len(excess_losses)} excess losses: need one for each domain")
    if not (np.isfinite(weights) & (weights > 0)).all():
        raise UserError(f"weights {weights.tolist()}: must be above 0, or a domain could never come back")
    if not (np.isfinite(excess_losses) & (excess_losses >= 0)).all():
        raise UserError(f"excess losses {excess_losses.tolist()}: must be finite and at least 0")
    logs = np.log(weights) + config.step_size * excess_losses
    raised = np.exp(logs - logs.max())  # the same ratios, without an overflow
    return np.asarray((1 - config.smoothing) * raised / raised.sum() + config.smoothing / len(weights))


def average(history: NDArray[Any]) -> F64:
    """(domains,) float64 mean of the weights after each update, (steps, domains): the mixture to learn from.

    Raises:
        UserError: there was no step.
    """
    if history.ndim != 2 or not len(history):
        raise UserError(f"history of shape {history.shape}: need the weights of one step at least")
    total = np.asarray(history, np.float64).mean(axis=0)
    return np.asarray(total / total.sum())
