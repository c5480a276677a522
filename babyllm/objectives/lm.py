"""The language-modelling loss."""

from __future__ import annotations

import torch
from torch import nn

from babyllm.data.batch import Batch
from babyllm.objectives import LossTerms
from babyllm.objectives.token_groups import Groups, losses_of_groups


def language_model(model: nn.Module, batch: Batch, groups: Groups | None = None) -> LossTerms:
    """Next-token prediction: tokens and targets (B, T) int64 -> summed nats of all targets, over unit "token".

    The metrics are "loss", in nats per token, and that of the targets of each of `groups`.
    """
    nats = model(**batch.tensors, n_targets=batch.units["token"])
    total, n_tokens = nats.sum(), torch.tensor(float(batch.units["token"]))
    apart = losses_of_groups(nats.detach(), batch["targets"], groups or {})
    return LossTerms({"token": total}, {"loss": (total.detach(), n_tokens), **apart})
