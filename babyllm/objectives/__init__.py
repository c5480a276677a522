"""Losses: functions of a model and a batch that return sums, each divided once by the loop.

batch -> model(tokens, targets, ..., returns=...) -> per-token nats, entropies, values -> LossTerms(sums, metrics)
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from torch import Tensor, nn

from babyllm.data.batch import Batch

Mean = tuple[Tensor, Tensor]
"""(sum, count): divided once, when logged, after one sum over all ranks."""


class LossTerms(NamedTuple):
    """The result of a loss for one micro-batch.

    Attributes:
        sums: unit -> differentiable sum over that unit; the loop divides each by the unit's number in the global batch.
        metrics: name -> (sum, count), both without gradient; the same names on every rank and in every batch. "loss"
            is what the progress line and the picture show; a loss without it shows none. The names the run itself
            records (`babyllm.training.recording.records.OWN_METRICS`) and those of the stream are taken.
    """

    sums: dict[str, Tensor]
    metrics: dict[str, Mean]


class Loss(Protocol):
    """A loss; it must call the model it is given, which under DDP is the wrapper."""

    def __call__(self, model: nn.Module, batch: Batch) -> LossTerms:
        """The sums and metrics of one micro-batch."""
        ...
