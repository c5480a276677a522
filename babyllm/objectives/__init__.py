"""Losses: functions of a model and a batch that return sums by unit, which the loop divides once.

batch -> model(tokens, targets, ..., returns=...) -> per-token nats, entropies, values -> LossTerms(sums, metrics)
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from torch import Tensor, nn

from babyllm.data.batch import Batch

Mean = tuple[Tensor, Tensor]
"""(sum, count), scalar tensors: summed over all ranks and divided when logged."""


class LossTerms(NamedTuple):
    """The result of a loss for one micro-batch.

    Attributes:
        sums: differentiable scalar sum by unit; the loop divides each by the number of such units in the global batch.
        metrics: (sum, count) by name, scalars without gradient; the names are the same on every rank and in every
            batch. The progress line and the plot show "loss", if there is one. The names that the run itself records
            (`babyllm.training.recording.records.OWN_METRICS`) and those of the stream are reserved.
    """

    sums: dict[str, Tensor]
    metrics: dict[str, Mean]


class Loss(Protocol):
    """A loss; it must call the model it is given, which under DDP is the wrapper."""

    def __call__(self, model: nn.Module, batch: Batch) -> LossTerms:
        """The sums and metrics of one micro-batch."""
        ...
