"""The optimizer: AdamW over two parameter groups, one with weight decay and one without."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class OptimConfig:
    """AdamW (Loshchilov and Hutter 2019, algorithm 2).

    Attributes:
        weight_decay: of parameters with two or more dimensions; norms and biases have none.
        beta1: decay of the mean gradient.
        beta2: decay of the mean squared gradient.
        eps: added to the root of the mean squared gradient.
    """

    weight_decay: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8


def adamw(model: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """An AdamW over the trainable parameters of `model`, those of two or more dimensions decayed.

    Its learning rate is 0 until the training loop sets the schedule's.
    """
    trainable = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.dim() >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in trainable if p.dim() < 2], "weight_decay": 0.0},
    ]
    fused = all(p.device.type in ("cpu", "cuda") for p in trainable)
    return torch.optim.AdamW(groups, lr=0.0, betas=(config.beta1, config.beta2), eps=config.eps, fused=fused)
