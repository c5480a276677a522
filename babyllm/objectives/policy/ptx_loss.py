"""The share of text in the loss of a policy."""

from __future__ import annotations

import torch
from torch import nn

from babyllm.data.batch import Batch
from babyllm.objectives import Loss, LossTerms
from babyllm.parallel.sharding import is_sharded


def with_ptx_loss(loss: Loss, weight: float) -> Loss:
    """A policy's loss plus a weight times the mean nats of a token of text (Ouyang et al. 2022, equation 2).

    Args:
        loss: loss of micro-batches of answers.
        weight: weight of the text.

    Returns:
        A loss of micro-batches of either kind. Those whose unit "ptx_token" is not 0 hold text, "tokens" and "targets"
        (B, T) int64, and are summed over that unit; their metric is "ptx/loss" in nats per token.
    """

    def either(model: nn.Module, batch: Batch) -> LossTerms:
        if not batch.units["ptx_token"]:
            return loss(model, batch)
        n_targets = batch.units["ptx_token"]
        nats = model(**batch.tensors, n_targets=n_targets, returns=("nats",))["nats"]
        # Text has no values, and DDP waits for a gradient of every parameter, those of a critic too; shards do not.
        waited_for = [] if is_sharded(model) else [p for p in model.parameters() if p.requires_grad]
        total = nats.sum() + sum((p.flatten()[0] * 0 for p in waited_for), nats.new_zeros(()))
        return LossTerms({"ptx_token": weight * total}, {"ptx/loss": (total.detach(), torch.tensor(float(n_targets)))})

    return either if weight else loss
