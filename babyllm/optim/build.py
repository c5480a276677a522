"""The optimizer of a model: its parameters in groups, by kind, weight decay and learning rate."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import nn

from babyllm.config.values import check
from babyllm.optim.config import OptimConfig
from babyllm.optim.muon import MuonAdamW
from babyllm.optim.offload import OffloadedMuonAdamW
from babyllm.parallel.config import Offload


class _Kind(NamedTuple):
    """The parameters of a group: whether Muon updates them, their decay, and their learning rate's factor."""

    is_muon: bool
    is_decayed: bool
    weight_decay: float
    lr_scale: float


def make_optimizer(model: nn.Module, config: OptimConfig, offload: Offload = "none") -> torch.optim.Optimizer:
    """The optimizer of a model's trainable parameters; weight decay applies to those with two or more dimensions.

    Call it after everything that replaces parameters: an adapter, a move to a device, sharding. The learning rate is 0
    until the training loop sets that of the schedule, times the group's `lr_scale` if it has one.

    Args:
        model: model, whose frozen parameters are left out. A module may have `lr_scales`, factors of the learning rate.
            They are by the names of its own parameters, as in `LoraLinear`, where the factors of `config` are then not
            applied; or by those of its parts, as in `ActorCritic`, where they are applied too. `weight_decays`, by the
            names of parts, replace that of `config`.
        config: settings of the optimizer.
        offload: under "optimizer" its state is in the memory of the CPU, where the step is computed.

    Raises:
        UserError: a setting in `config` is out of range.
    """
    check(config, "optim.")
    kinds: dict[_Kind, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            kinds.setdefault(_kind(model, name, parameter, config), []).append(parameter)
    groups = [
        {
            "params": parameters,
            "weight_decay": kind.weight_decay if kind.is_decayed else 0.0,
            **({"lr_scale": kind.lr_scale} if kind.lr_scale != 1 else {}),
            **({"is_muon": True} if kind.is_muon else {}),
        }
        for kind, parameters in kinds.items()
    ]
    fused = all(p.device.type in ("cpu", "cuda") for parameters in kinds.values() for p in parameters)
    options: dict[str, Any] = {"betas": (config.beta1, config.beta2), "eps": config.eps, "fused": fused}
    if offload == "optimizer":
        return OffloadedMuonAdamW(groups, lr=0.0, momentum=config.momentum, **options | {"fused": True})
    if any(kind.is_muon for kind in kinds):
        return MuonAdamW(groups, lr=0.0, momentum=config.momentum, **options)
    return torch.optim.AdamW(groups, lr=0.0, **options)


def _kind(model: nn.Module, name: str, parameter: nn.Parameter, config: OptimConfig) -> _Kind:
    *parts, key = name.split(".")
    module, scale, decay, is_decayed = model, 1.0, config.weight_decay, parameter.dim() >= 2
    for part in parts:
        scale *= getattr(module, "lr_scales", {}).get(part, 1.0)
        decay = getattr(module, "weight_decays", {}).get(part, decay)
        module = module.get_submodule(part)
    own = getattr(module, "lr_scales", None)
    if own is not None:
        return _Kind(False, is_decayed, decay, scale * own.get(key, 1.0))
    if isinstance(module, nn.Embedding):
        return _Kind(False, is_decayed, decay, scale * config.embedding_lr)
    if parameter.dim() == 2 and ".layers." in f".{name}":
        return _Kind(config.matrices == "muon", is_decayed, decay, scale * config.matrices_lr)
    return _Kind(False, is_decayed, decay, scale)
