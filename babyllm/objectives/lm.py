"""The language-modelling loss."""

from __future__ import annotations

import torch
from torch import nn

from babyllm.data.batch import Batch
from babyllm.objectives import LossTerms


def language_model(model: nn.Module, batch: Batch) -> LossTerms:
    """Next-token prediction: tokens and targets (B, T) int64 -> summed nats of all targets, over unit "token"."""
    total = model(**batch.tensors, n_targets=batch.units["token"]).sum()
    return LossTerms({"token": total}, {"loss": (total.detach(), torch.tensor(float(batch.units["token"])))})
