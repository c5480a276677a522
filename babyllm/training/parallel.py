"""Distribution of a model over ranks: prepared before its optimizer is made, wrapped before the first step.

model -> prepare (device; sharding would go here) -> optimizer -> replicate (compile, DDP) -> the loop
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from babyllm.data.batch import Batch
from babyllm.model.attention import LONGEST, SHORTEST, fastest_form, set_attention
from babyllm.model.heads import transformer_of
from babyllm.model.interface import Model
from babyllm.objectives import Loss
from babyllm.runtime import Runtime
from babyllm.runtime.machine import cpu_model
from babyllm.runtime.measured import remembered

M = TypeVar("M", bound=nn.Module)
_TOKENS, _TURNS = 8192, 5  # of a measurement


def prepare(model: M, runtime: Runtime) -> M:
    """Return the model on its device, with the parameters that its optimizer must be made from.

    Call it before the optimizer is made: sharding replaces parameters, and an optimizer would keep the old ones.
    """
    return model.to(runtime.device)


def choose_forms(model: Model, runtime: Runtime, seq_len: int) -> None:
    """Settle how the model computes in training: the form of attention, and whether its blocks are compiled.

    What `runtime` leaves at "auto" rank 0 measures, once for each shape on a machine. Every rank must call it. Loading
    a checkpoint may change the form of attention.

    Args:
        model: bare model, on its device.
        runtime: device, ranks and settings; its `compile` becomes a bool.
        seq_len: tokens of a row.
    """
    c, machine = model.config, f"{_machine(runtime)}, {torch.__version__}"
    form = runtime.attention
    if form == "auto":
        shape = seq_len, c.n_heads, c.kv_heads, c.head_width
        is_open = runtime.device.type == "cpu" and SHORTEST <= seq_len <= LONGEST
        key = f"attention {shape} {runtime.dtype}, {machine}"
        is_blocks = is_open and _measured(runtime, key, "blocks", lambda: fastest_form(shape, runtime.dtype))
        form = "blocks" if is_blocks else "fused"
    set_attention(model, form)
    if runtime.compile == "auto":
        key = f"compile {seq_len} {c} {runtime.dtype} {runtime.compile_backend}, {machine}"
        with runtime.patience():
            runtime.compile = _measured(runtime, key, "compiled", lambda: _faster_blocks(model, runtime, seq_len))


def _machine(runtime: Runtime) -> str:
    is_gpu = runtime.device.type == "cuda"
    return torch.cuda.get_device_name() if is_gpu else f"{torch.get_num_threads()} x {cpu_model()}"


def _measured(runtime: Runtime, key: str, choice: str, measure: Callable[[], str]) -> bool:
    """Whether rank 0 has measured that `choice` is faster; every rank must call it."""
    return bool(runtime.sum([float(runtime.is_main and remembered(key, measure) == choice)])[0])


def _faster_blocks(model: Model, runtime: Runtime, seq_len: int) -> str:
    """The faster way to train a block of the model, "compiled" or "plain"; the block is plain afterwards."""
    block, device = model.layers[0], runtime.device
    cos, sin = (x[None, None, :seq_len] for x in transformer_of(model).rotations(seq_len, device))
    generator = torch.Generator(device).manual_seed(0)  # the run's own numbers stay as they are
    rows = torch.randn(max(1, _TOKENS // seq_len), seq_len, model.config.d_model, device=device, generator=generator)
    inputs = [rows.requires_grad_(), *(weight for weight in block.parameters() if weight.requires_grad)]

    def seconds() -> float:
        began = time.perf_counter()
        for _ in range(_TURNS):
            with runtime.autocast():
                out = block(rows, cos, sin, None)
            torch.autograd.grad(out.sum(), inputs)
        getattr(torch, device.type).synchronize()
        return time.perf_counter() - began

    seconds()
    plain = min(seconds(), seconds())
    block.compile(backend=runtime.compile_backend)
    seconds()  # compiles
    compiled = min(seconds(), seconds())
    block._compiled_call_impl = None
    return "compiled" if compiled < plain else "plain"


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
            block.compile(backend=runtime.compile_backend)
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
