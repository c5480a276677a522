"""The optimizer: AdamW, with parameters grouped by weight decay and learning rate."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from babyllm.config.values import Positive, Rate, ShareBelow1, check


@dataclass(frozen=True)
class OptimConfig:
    """AdamW (Loshchilov and Hutter 2019, algorithm 2).

    Attributes:
        weight_decay: weight decay of parameters with two or more dimensions; norms and biases have none.
        beta1: decay of the running mean of the gradient.
        beta2: decay of the running mean of the squared gradient.
        eps: term added to the root of the mean squared gradient.
    """

    weight_decay: Rate = 0.1
    beta1: ShareBelow1 = 0.9
    beta2: ShareBelow1 = 0.95
    eps: Positive = 1e-8


def make_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """The optimizer of a model's trainable parameters; weight decay applies to those with two or more dimensions.

    Call it after everything that replaces parameters: an adapter, a move to a device, sharding. The learning rate is 0
    until the training loop sets that of the schedule, times the group's `lr_scale` if it has one.

    Args:
        model: model, whose frozen parameters are left out. A module may have `lr_scales`, factors of the learning rate
            by the names of its own parameters, as `LoraLinear` does.
        config: settings of AdamW.

    Raises:
        UserError: a setting in `config` is out of range.
    """
    check(config, "optim.")
    kinds: dict[tuple[bool, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            module, _, key = name.rpartition(".")
            lr_scale = getattr(model.get_submodule(module), "lr_scales", {}).get(key, 1.0)
            kinds.setdefault((parameter.dim() >= 2, lr_scale), []).append(parameter)
    groups = [
        {
            "params": parameters,
            "weight_decay": config.weight_decay if is_decayed else 0.0,
            **({"lr_scale": lr_scale} if lr_scale != 1 else {}),
        }
        for (is_decayed, lr_scale), parameters in kinds.items()
    ]
    fused = all(p.device.type in ("cpu", "cuda") for parameters in kinds.values() for p in parameters)
    return torch.optim.AdamW(groups, lr=0.0, betas=(config.beta1, config.beta2), eps=config.eps, fused=fused)
