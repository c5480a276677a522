"""Weights of a divided model, drawn or copied one at a time, so that no rank ever holds all of them."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from babyllm.errors import UserError
from babyllm.model.interface import Model
from babyllm.model.transformer import Block, Transformer
from babyllm.parallel.tensors import local, part_of, place_of


@torch.no_grad()
def draw(model: Transformer) -> None:
    """Give each rank its parts of the weights that a model made as a whole draws with the same generator."""
    c = model.config
    for _ in range(c.n_layers):
        Block(c)  # PyTorch's layers draw weights when they are made, before those that the model draws
    nn.Linear(c.d_model, c.vocab_size, bias=False)
    for name, parameter in model.named_parameters():
        whole = torch.empty(parameter.shape)
        model.draw(name, whole)
        local(parameter).copy_(part_of(whole, place_of(parameter)))


@torch.no_grad()
def copy_parts(model: Model, weights: Mapping[str, Tensor], source: str) -> None:
    """Copy each rank's parts of weights into a model.

    Args:
        model: divided model.
        weights: whole tensors by the names of the model's parameters, such as views of mapped files.
        source: origin of the weights, for the message.

    Raises:
        UserError: a value is not finite.
    """
    for name, parameter in model.named_parameters():
        part = part_of(weights[name], place_of(parameter))
        if part.numel() and not all(map(math.isfinite, part.float().aminmax())):
            raise UserError(f"{source}: tensor {name!r} holds NaN or infinity; use another step or model")
        local(parameter).copy_(part)
