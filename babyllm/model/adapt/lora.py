"""Low-rank adaptation of a whole model: which layers get an update, and the plain model they make.

model -> add_lora -> training of A and B alone -> merge_lora -> plain model
                     with adapter_off: the base

Adapters are stored by babyllm.interop.peft.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Annotated, Literal, get_args

import torch
from torch import nn

from babyllm.config import nearest
from babyllm.config.option_names import why_not
from babyllm.config.values import Limits, Positive, ShareBelow1, check
from babyllm.errors import UserError
from babyllm.model.adapt.token_rows import RowEmbedding, RowLinear, dense_embedding
from babyllm.model.linear import FrozenLinear, LoraLinear, WeightStorage, dense_weight, update_scale
from babyllm.model.transformer import OUTPUT, Transformer

ALL = "all"
Base = Literal["float32", "bfloat16", "int8", "nf4"]


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank adaptation (Hu et al. 2021): the model stays as it is, and a small update of it is trained.

    Attributes:
        rank: rank of the update of each target; 0 trains the model itself.
        alpha: factor of the update, divided by the rank.
        dropout: dropout probability, on the input of each update; the output layer's has none.
        targets: linear layers by name or end of name (q_proj, layers.0.mlp.up_proj, lm_head); all: all in the blocks.
        rslora: whether to divide alpha by the rank's root instead, which suits high ranks (Kalajdzievski 2023).
        lora_plus: learning rate of B over that of A (Hayou et al. 2024, who advise 16); 1 is the same for both.
        new_tokens: rows of special tokens in the embedding and the output layer that are trained too: those of the
            template that the base has not learned (auto), all that the template writes (true), or none (false).
        base: storage of the blocks' frozen weights: float32, bfloat16, int8, or nf4 (4 bits, Dettmers et al. 2023).
        double_quant: whether to store the scales of nf4 in 8 bits, which saves another 0.37 bits a weight.
    """

    rank: Annotated[int, Limits(0, 16_384)] = 0
    alpha: Positive = 16.0
    dropout: ShareBelow1 = 0.0
    targets: list[str] = field(default_factory=lambda: [ALL])
    rslora: bool = False
    lora_plus: Positive = 1.0
    new_tokens: bool | Literal["auto"] = "auto"
    base: Base = "float32"
    double_quant: bool = False

    def __post_init__(self) -> None:
        """Refuse impossible settings.

        Raises:
            UserError: a setting is impossible; the message names it.
        """
        check(self, "lora.")
        if self.base not in (known := get_args(Base)):
            raise UserError(f"lora.base={self.base}: must be one of {', '.join(known)}{why_not(self.base, known)}")
        if self.base != "float32" and not self.rank:
            raise UserError(
                f"lora.base={self.base}: needs a lora.rank above 0; a model that is trained itself is float32"
            )
        if self.double_quant and self.base != "nf4":
            raise UserError(f"lora.double_quant=true: needs lora.base=nf4, whose scales it stores, not {self.base}")

    @property
    def storage(self) -> WeightStorage:
        """Storage of the blocks' frozen weights, with that of their scales."""
        return "nf4_double" if self.double_quant else self.base

    @property
    def scale(self) -> float:
        """Factor of the update."""
        return update_scale(self.rank, self.alpha, rslora=self.rslora)


def linear_layers(model: nn.Module) -> dict[str, nn.Linear]:
    """The linear layers of a model by name, the output layer last."""
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Linear)}


def lora_layers(model: nn.Module) -> dict[str, LoraLinear]:
    """The layers of a model that have an update, by name; none if it has no adapter."""
    return {name: layer for name, layer in linear_layers(model).items() if isinstance(layer, LoraLinear)}


def add_lora(model: Transformer, config: LoraConfig) -> Transformer:
    """The same model with an update on each target; updates start at zero and are all that is trained.

    Args:
        model: changed in place; A is drawn from torch's current generator.
        config: its rank 0 leaves the model unchanged.

    Raises:
        UserError: a target is unknown or is a tied output layer, or the model has an adapter already.
    """
    if not config.rank:
        return model
    if lora_layers(model):
        raise UserError("the model has an adapter already; merge it first (merge_lora, or babyllm merge-lora)")
    targets = _matching(model, config.targets)
    model.requires_grad_(False)
    for name, layer in linear_layers(model).items():
        storage: WeightStorage = config.storage if name != OUTPUT else "float32"
        if name in targets:
            new: nn.Linear = LoraLinear(
                layer,
                storage,
                config.rank,
                config.alpha,
                rslora=config.rslora,
                dropout=config.dropout,
                lora_plus=config.lora_plus,
            )
        elif storage != "float32":
            new = FrozenLinear(layer, storage)
        else:
            continue
        model.set_submodule(name, new.train(layer.training))
    return model


def freeze_blocks(model: Transformer, storage: WeightStorage) -> None:
    """Hold the linear layers of the blocks in fewer bits, frozen, in place; float32 changes nothing."""
    if storage == "float32":
        return
    for name, layer in linear_layers(model).items():
        if name != OUTPUT:
            model.set_submodule(name, FrozenLinear(layer, storage))


def _matching(model: Transformer, targets: list[str]) -> set[str]:
    """Names of the layers that `targets` name."""
    names = list(linear_layers(model))
    found: set[str] = set()
    for target in targets:
        if target == ALL:
            mine = [name for name in names if name != OUTPUT]
        else:
            mine = [name for name in names if f".{name}".endswith(f".{target.removeprefix('model.')}")]
        if not mine:
            known = [ALL, *names, *(name.rpartition(".")[2] for name in names)]
            raise UserError(f"lora.targets: {target!r} is not a linear layer; did you mean {nearest(target, known)!r}?")
        found |= set(mine)
    if not found:
        raise UserError("lora.targets: names no layer; give some, or all")
    if OUTPUT in found and model.config.tie_embeddings:
        raise UserError(f"lora.targets: {OUTPUT} is this model's embedding too (tied) and cannot have an update")
    return found


@contextmanager
def adapter_off(model: nn.Module) -> Iterator[None]:
    """A context in which a model with an adapter equals its base, to the bit, and computes without gradients.

    Gradients would be useless, since all trained parameters are switched off. The model in training can thus be its own
    reference: `with adapter_off(model): reference = model(tokens, targets)`.

    Contexts may be nested, and the adapter is back after an error. Dropout of the model itself stays on in training
    mode. Do not merge inside: the updates would be lost.

    Args:
        model: a model with an adapter or without one; may be wrapped for DDP or have compiled blocks.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, (LoraLinear, RowEmbedding, RowLinear))]
    before = [layer.is_active for layer in layers]
    try:
        for layer in layers:
            layer.is_active = False
        with torch.no_grad():
            yield
    finally:
        for layer, was_active in zip(layers, before, strict=True):
            layer.is_active = was_active


@torch.no_grad()
def merge_lora(model: Transformer) -> Transformer:
    """The same model as a plain one in float32, with the updates and rows in its weights and everything trainable.

    Args:
        model: changed in place; a base stored in fewer bits stays as coarse as it was.
    """
    for name, layer in linear_layers(model).items():
        if isinstance(layer, FrozenLinear):
            plain = nn.Linear(layer.in_features, layer.out_features, bias=False, device="meta")
            plain.weight = nn.Parameter(dense_weight(layer))
            plain.bias = layer.bias
            model.set_submodule(name, plain.train(layer.training))
            model.origin = None
    _merge_rows(model)
    return model.requires_grad_(True)


@torch.no_grad()
def to_int8(model: Transformer) -> Transformer:
    """The same model with every linear layer's weight stored as int8: for reading, not for training or saving.

    Args:
        model: changed in place; updates are added first. The embedding keeps its type, also where it was tied.
    """
    if lora_layers(model):
        model.origin = None
    _merge_rows(model)
    for name in list(linear_layers(model)):  # names alone, so that no layer stays in memory
        layer = model.get_submodule(name)
        assert isinstance(layer, nn.Linear)
        model.set_submodule(name, FrozenLinear(layer, "int8").train(layer.training))
    return model.requires_grad_(False)


def _merge_rows(model: Transformer) -> None:
    """Make an embedding with trained rows a plain one, which a tied output layer shares."""
    if isinstance(model.embed_tokens, RowEmbedding):
        rows = dense_embedding(model.embed_tokens)
        size, width = rows.shape
        model.embed_tokens = nn.Embedding(size, width, _weight=rows).train(model.training)
        if model.config.tie_embeddings:
            model.lm_head.weight = model.embed_tokens.weight
