"""How a model is spread over ranks: prepared before its optimizer is made, wrapped before its first step.

model -> prepare (device; the place to shard) -> optimizer -> replicate (compile, DDP) -> the loop
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TypeVar

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from babyllm.data.batch import Batch
from babyllm.model.interface import Model
from babyllm.objectives import Loss
from babyllm.runtime import Runtime

M = TypeVar("M", bound=nn.Module)


def prepare(model: M, runtime: Runtime) -> M:
    """Return the model with the parameters that an optimizer is to be made over.

    Call it before the optimizer is made: sharding replaces parameters, and an optimizer would keep the old ones.
    """
    return model.to(runtime.device)


def replicate(model: Model, loss: Loss, batch: Batch, runtime: Runtime) -> nn.Module:
    """Return the model as the loop calls it: itself, or wrapped so that gradients are averaged over ranks.

    DDP orders its gradient buckets again after its first backward pass, which changes the order of sums over three or
    more ranks. One pass lets it settle before the first step, so that a resumed run adds in the same order as one that
    never stopped. The caller discards the gradients of that pass.

    Args:
        model: bare model; its blocks are compiled in place where the runtime says so.
        loss: loss of the run.
        batch: micro-batch of this rank, on the device.
        runtime: device, ranks and number type.
    """
    if runtime.compile:
        # Block by block: the same code for each, so it is compiled once and not once per layer.
        for block in model.layers:
            block.compile()
    if runtime.world_size == 1:
        return model
    ids = [runtime.device.index] if runtime.device.type == "cuda" else None
    wrapped = DistributedDataParallel(model, device_ids=ids, gradient_as_bucket_view=True)
    with runtime.autocast():
        terms = loss(wrapped, batch)
    torch.autograd.backward(list(terms.sums.values()))
    return wrapped


def synchronised(model: nn.Module, n: int) -> Iterator[contextlib.AbstractContextManager[None]]:
    """Yield the context of each of `n` micro-batches; gradients are averaged over ranks in the last one alone."""
    for i in range(n):
        skips = i < n - 1 and isinstance(model, DistributedDataParallel)
        yield model.no_sync() if skips else contextlib.nullcontext()  # type: ignore[operator]
