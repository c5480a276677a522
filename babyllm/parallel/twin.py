"""A divided model read outside of training: by evaluation, generation, rollouts and the reference of a preference loss.

divided model -> readable: its twin, a plain model without weights -> `whole` fills it on every rank, and empties it
                 layers    what is outside of the blocks at once, each block when a pass comes to it
                 at once   all weights, for much reading

The twin lets such code read weights as it likes, and as often as its rank needs (`babyllm.parallel.lockstep`), while
the divided model itself needs the same passes on every rank.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, TypeVar, cast

import torch
from torch import nn

from babyllm.model.interface import Model, set_gathering
from babyllm.parallel.config import Reading
from babyllm.parallel.lockstep import Lockstep
from babyllm.parallel.tensors import whole_tensors
from babyllm.runtime import Runtime

M = TypeVar("M", bound=Model)
S = TypeVar("S")
_TWIN = "_twin"
_OUTSIDE = -1  # the number of the part that is outside of the blocks


class _Twin:
    """A model without weights, and what fills it from the divided one."""

    def __init__(self, model: Model, runtime: Runtime, how: Reading) -> None:
        self.how, self.is_at_once = how, how == "whole"
        self.lockstep, self._device = Lockstep(runtime, self._serve), runtime.device
        memo = {
            id(p): nn.Parameter(torch.empty(0, dtype=p.dtype, device=runtime.device), requires_grad=p.requires_grad)
            for p in model.parameters()
        }
        self.model, self._divided = copy.deepcopy(model, memo), model
        self._parts: dict[int, list[tuple[nn.Parameter, torch.Tensor]]] = {}
        self._kept: set[int] = set()  # parts that are filled throughout
        for number, block in enumerate(self.model.layers):
            block.register_forward_pre_hook(lambda block, inputs, number=number: self._take(number))
            block.register_forward_hook(lambda block, inputs, x, number=number: self._drop(number), always_call=True)

    @contextmanager
    def filled(self) -> Iterator[None]:
        """A body that reads the model; every rank must enter it."""
        with nullcontext() if self.lockstep.is_on else self.lockstep.together():
            self.lockstep.arrive()
            self._find_parts()
            try:
                for number in sorted(self._parts if self.is_at_once else (_OUTSIDE,)):
                    self._fill(number)
                    self._kept.add(number)
                for number, block in enumerate(self.model.layers):
                    set_gathering(block, None if self.is_at_once else partial(self._gathered, number))
                yield
                self.lockstep.arrive()
            finally:
                for parameter in self.model.parameters():
                    _empty(parameter)
                self._parts, self._kept = {}, set()

    def _find_parts(self) -> None:
        numbers = {id(p): i for i, block in enumerate(self.model.layers) for p in block.parameters()}
        divided = dict(self._divided.named_parameters())
        self._parts = {number: [] for number in range(_OUTSIDE, len(self.model.layers))}
        for name, parameter in self.model.named_parameters():
            self._parts[numbers.get(id(parameter), _OUTSIDE)].append((parameter, divided[name].detach()))

    @contextmanager
    def _gathered(self, number: int) -> Iterator[None]:
        self._take(number)
        try:
            yield
        finally:
            self._drop(number)

    def _take(self, number: int) -> None:
        """Gather the weights of a block that this rank needs now."""
        if not self._parts:
            raise RuntimeError("a divided model is read within `whole` alone")
        if number not in self._kept:
            self.lockstep.need(number)
            self._fill(number)

    def _serve(self, number: int) -> None:
        """Take part in gathering the weights of a block that other ranks need."""
        self._fill(number)
        self._drop(number)

    def _fill(self, number: int) -> None:
        parameters, parts = zip(*self._parts[number], strict=True)
        with torch.inference_mode(False), torch.no_grad():  # weights made in inference mode could not be changed
            for parameter, weight in zip(parameters, whole_tensors(parts, self._device), strict=True):
                parameter.data = weight

    def _drop(self, number: int) -> None:
        if number not in self._kept:
            for parameter, _ in self._parts.get(number, ()):
                _empty(parameter)


def _empty(parameter: nn.Parameter) -> None:
    parameter.data = torch.empty(0, dtype=parameter.dtype, device=parameter.device)


def keep_twin(model: Model, runtime: Runtime, how: Reading) -> None:
    """Give a model that is about to be divided its twin, whose parameters are empty.

    Args:
        model: the model, on any device.
        runtime: device and ranks.
        how: how the twin is filled.
    """
    object.__setattr__(model, _TWIN, _Twin(model, runtime, how))  # not a part of the model, whose names it would repeat


def readable(model: M) -> M:
    """The model to read outside of training: itself, or the twin of a divided model, within `whole`."""
    twin: _Twin | None = getattr(model, _TWIN, None)
    return cast(M, twin.model) if twin else model


@contextmanager
def whole(model: Model) -> Iterator[None]:
    """A body in which `readable(model)` is read; every rank must enter it, and they leave it together."""
    twin: _Twin | None = getattr(model, _TWIN, None)
    with twin.filled() if twin else nullcontext():
        yield


@contextmanager
def together(model: Model, rescue: Callable[[], None]) -> Iterator[None]:
    """A body that reads a model; if it fails, `rescue` is called before the run ends.

    Where the model is divided every rank enters the body and `whole` within it, and all call `rescue` if one has
    failed. Else the rank that has failed calls it, which other ranks may not have.

    Raises:
        UserError: on rank 0, if the body has failed on another rank that has a part of the model; see `Lockstep`.
    """
    twin: _Twin | None = getattr(model, _TWIN, None)
    if twin:
        with twin.lockstep.together(rescue):
            yield
        return
    try:
        yield
    except Exception:
        rescue()
        raise


def reading(stream: S, model: Model, *, writes: bool = False) -> S:
    """A stream whose batches are made by reading `readable(model)`, each within `whole`.

    Args:
        stream: the stream.
        model: the model, divided or not.
        writes: whether the model writes answers for every batch; under auto all weights are then gathered at once.
    """
    twin: _Twin | None = getattr(model, _TWIN, None)
    if twin is None:
        return stream
    twin.is_at_once |= writes and twin.how == "auto"
    return cast(S, _Reading(stream, model))


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
