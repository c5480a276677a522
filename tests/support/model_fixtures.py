"""Tiny models to look at: of given weights, with adapters, or ones that say prescribed ids."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import nn

from babyllm.interop.huggingface import Unread
from babyllm.model.config import ModelConfig
from babyllm.model.linear import WeightStorage
from babyllm.model.transformer import Transformer
from babyllm.parallel.filling import Weights

M = TypeVar("M", bound=nn.Module)
Tiny = Callable[..., ModelConfig]


def model_of(config: ModelConfig) -> Transformer:
    """Always the same weights."""
    torch.manual_seed(0)
    return Transformer(config).eval()


def decisive(config: ModelConfig, seed: int = 0) -> Transformer:
    """A random model with large weights: its scores are spread, and its next token depends on all it reads."""
    torch.manual_seed(seed)
    model = Transformer(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(std=0.3) if weight.dim() > 1 else weight.uniform_(0.5, 1.5)
    return model


def unread(model: Transformer) -> Unread:
    """The model as one whose weights are read when they are asked for."""
    return Unread(model, Weights(lambda name: model.get_parameter(name).detach(), repr))


def stirred(model: M) -> M:
    """The model with updates that are not nothing, ours or peft's."""
    torch.manual_seed(5)
    for name, parameter in model.named_parameters():
        if "lora_B" in name or name.endswith(".rows") or "trainable_tokens_delta" in name:
            nn.init.normal_(parameter, std=0.1)
    return model


def some_tokens(config: ModelConfig, n: int = 20) -> torch.Tensor:
    """(2, n) ids, always the same."""
    torch.manual_seed(7)
    return torch.randint(config.vocab_size, (2, n))


def frozen_as(storage: WeightStorage) -> dict[str, Any]:
    """The options of LoRA that store the frozen weights in this way."""
    is_double = storage == "nf4_double"
    return {"base": "nf4" if is_double else storage, "double_quant": is_double}


def trained(model: Transformer) -> set[str]:
    """Names of the parameters that are trained."""
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def chain(config: ModelConfig, ids: Sequence[int]) -> Transformer:
    """A model that says these ids, all different, after any prompt, and begins again after the last."""
    model = Transformer(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.fill_(1.0 if weight.dim() < 2 else 0.0)
            if name == "embed_tokens.weight":
                weight[:, 0] = 1.0
        for i, token in enumerate(ids):
            model.lm_head.weight[token, i] = 1.0
            model.embed_tokens.weight[token] = torch.eye(config.d_model)[(i + 1) % len(ids)]
    return model
