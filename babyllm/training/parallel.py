"""Distribution of a model over ranks: prepared before its optimizer is made, wrapped before the first step.

model -> prepare (device; sharding would go here) -> optimizer -> replicate (compile, DDP) -> the loop
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TypeVar

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from babyllm.data.batch import Batch
from babyllm.model.attention import LONGEST, SHORTEST, fastest_form, set_attention
from babyllm.model.interface import Model
from babyllm.objectives import Loss
from babyllm.runtime import Runtime
from babyllm.runtime.machine import cpu_model
from babyllm.runtime.measured import remembered

M = TypeVar("M", bound=nn.Module)


def prepare(model: M, runtime: Runtime) -> M:
    """Return the model on its device, with the parameters that its optimizer must be made from.

    Call it before the optimizer is made: sharding replaces parameters, and an optimizer would keep the old ones.
    """
    return model.to(runtime.device)


def choose_attention(model: Model, runtime: Runtime, seq_len: int) -> None:
    """Set how the model computes attention in training; every rank must call it. Loading a checkpoint may change it.

    Args:
        model: bare model.
        runtime: device, ranks and the setting; with "auto" rank 0 measures on a CPU, once for each shape.
        seq_len: tokens of a row.
    """
    form = runtime.attention
    if form == "auto":
        c = model.config
        shape = seq_len, c.n_heads, c.kv_heads, c.head_dim
        key = f"attention {shape} {runtime.dtype}, {torch.get_num_threads()} x {cpu_model()}, {torch.__version__}"
        is_open = runtime.is_main and runtime.device.type == "cpu" and SHORTEST <= seq_len <= LONGEST
        is_blocks = is_open and remembered(key, lambda: fastest_form(shape, runtime.dtype)) == "blocks"
        form = "blocks" if runtime.sum([float(is_blocks)])[0] else "fused"
    set_attention(model, form)


def replicate(model: Model, loss: Loss, batch: Batch, runtime: Runtime) -> nn.Module:
    """Return the model as the loop calls it: itself, or wrapped so that gradients are averaged over ranks.

    DDP reorders its gradient buckets after its first backward pass, which changes the order of sums over three or more
    ranks. One pass before the first step settles the order, so a resumed run sums in the same order as a run that never
    stopped. The caller discards the gradients of that pass.

    Args:
        model: bare model; its blocks are compiled in place if `runtime.compile` is set.
        loss: loss of the run.
        batch: first micro-batch of this rank, on the device.
        runtime: device, ranks and number type.
    """
    if runtime.compile:
        # Block by block: all blocks share their code, so it is compiled once, not once per layer.
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
    """Yield a context for each of `n` micro-batches; gradients are averaged over ranks only in the last."""
    for i in range(n):
        skips = i < n - 1 and isinstance(model, DistributedDataParallel)
        yield model.no_sync() if skips else contextlib.nullcontext()  # type: ignore[operator]
