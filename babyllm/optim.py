"""The optimizer: AdamW over groups of parameters, with weight decay or without, some with a faster learning rate."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from babyllm.config.values import Positive, Rate, ShareBelow1, check


@dataclass(frozen=True)
class OptimConfig:
    """AdamW (Loshchilov and Hutter 2019, algorithm 2).

    Attributes:
        weight_decay: of parameters with two or more dimensions; norms and biases have none.
        beta1: decay of the mean gradient.
        beta2: decay of the mean squared gradient.
        eps: added to the root of the mean squared gradient.
    """

    weight_decay: Rate = 0.1
    beta1: ShareBelow1 = 0.9
    beta2: ShareBelow1 = 0.95
    eps: Positive = 1e-8


def adamw(model: nn.Module, config: OptimConfig, lora_plus: float = 1.0) -> torch.optim.AdamW:
    """An AdamW over the trainable parameters of `model`, those of two or more dimensions decayed.

    Its learning rate is 0 until the training loop sets the schedule's, times the group's `lr_scale` where it has one.

    Args:
        model: what is frozen in it is left out.
        config: of AdamW.
        lora_plus: `lr_scale` of LoRA's B matrices (Hayou et al. 2024, LoRA+).

    Raises:
        UserError: a number of `config` is beyond its limits.
    """
    check(config, "optim.")
    kinds: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            is_faster = lora_plus != 1 and name.endswith("lora_B")
            kinds.setdefault((parameter.dim() >= 2, is_faster), []).append(parameter)
    groups = [
        {
            "params": parameters,
            "weight_decay": config.weight_decay if is_decayed else 0.0,
            **({"lr_scale": lora_plus} if is_faster else {}),
        }
        for (is_decayed, is_faster), parameters in kinds.items()
    ]
    fused = all(p.device.type in ("cpu", "cuda") for parameters in kinds.values() for p in parameters)
    return torch.optim.AdamW(groups, lr=0.0, betas=(config.beta1, config.beta2), eps=config.eps, fused=fused)
