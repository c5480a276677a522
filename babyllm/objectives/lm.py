"""The language-modelling loss."""

from __future__ import annotations

import torch
from torch import nn

from babyllm.data.batch import Batch
from babyllm.objectives import LossTerms


def language_model(model: nn.Module, batch: Batch) -> LossTerms:
    """Next-token prediction: the sum of every target's negative log-likelihood in nats, over unit "token".

    Args:
        model: model that returns nats, (B, T) float32.
        batch: "tokens" and "targets", and with document masks "positions" and "documents", each (B, T) int64.
    """
    total = model(**batch.tensors, n_targets=batch.units["token"]).sum()
    return LossTerms({"token": total}, {"loss": (total.detach(), torch.tensor(float(batch.units["token"])))})
