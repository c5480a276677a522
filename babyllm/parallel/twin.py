"""A divided model read outside of training: by evaluation, generation, rollouts and the reference of a preference loss.

divided model -> readable: its twin, a plain model without weights -> `whole` fills it, on every rank, and empties it

The twin lets such code read weights as it likes, and as often as its rank needs: a divided model gathers in each pass,
so every rank would have to make the same passes. It takes the memory of all weights while it is filled.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import nn

from babyllm.model.interface import Model
from babyllm.parallel.tensors import whole_tensor

M = TypeVar("M", bound=Model)
S = TypeVar("S")
_TWIN = "_twin"


def keep_twin(model: Model, device: torch.device) -> None:
    """Give a model that is about to be divided its twin, whose parameters are empty and on `device`."""
    memo = {
        id(p): nn.Parameter(torch.empty(0, dtype=p.dtype, device=device), requires_grad=p.requires_grad)
        for p in model.parameters()
    }
    object.__setattr__(model, _TWIN, copy.deepcopy(model, memo))  # not a part of the model, whose names it would repeat


def readable(model: M) -> M:
    """The model to read outside of training: itself, or the twin of a divided model, which `whole` fills."""
    twin: M = getattr(model, _TWIN, model)
    return twin


@contextmanager
def whole(model: Model) -> Iterator[None]:
    """`readable(model)` has all weights while the body runs; every rank must enter it."""
    twin = readable(model)
    if twin is model:
        yield
        return
    parts = dict(model.named_parameters())
    empty = {name: parameter.data for name, parameter in twin.named_parameters()}
    try:
        with torch.no_grad():
            for name, parameter in twin.named_parameters():
                parameter.data = whole_tensor(parts[name].detach())
        yield
    finally:
        for name, parameter in twin.named_parameters():
            parameter.data = empty[name]


def reading(stream: S, model: Model) -> S:
    """A stream whose batches are made by reading `readable(model)`: each is made while that has the weights."""
    return stream if readable(model) is model else _Reading(stream, model)  # type: ignore[return-value]


class _Reading:
    def __init__(self, stream: Any, model: Model) -> None:
        self._stream, self._model = stream, model

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        with whole(self._model):
            return next(self._stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
