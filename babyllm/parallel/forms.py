"""How a model computes in training: the form of attention, and whether its blocks are compiled, measured if need be."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from babyllm.model.attention import LONGEST, SHORTEST, fastest_form, set_attention
from babyllm.model.heads import transformer_of
from babyllm.model.interface import Model
from babyllm.model.transformer import Block
from babyllm.parallel.sharding import is_sharded
from babyllm.runtime import Runtime
from babyllm.runtime.machine import cpu_model
from babyllm.runtime.measured import remembered

PACKED = 512  # tokens of a packed row from which attention by document is faster
_TOKENS, _TURNS = 8192, 5  # of a measurement


def choose_forms(model: Model, runtime: Runtime, seq_len: int, *, is_packed: bool = False) -> None:
    """Settle how the model computes in training: the form of attention, and whether its blocks are compiled.

    What `runtime` leaves at "auto" rank 0 measures, once for each shape on a machine. Every rank must call it. Loading
    a checkpoint may change the form of attention.

    Args:
        model: bare model, on its device.
        runtime: device, ranks and settings; its `compile` becomes a bool.
        seq_len: tokens of a row.
        is_packed: whether rows hold documents that do not see each other.
    """
    c, machine = model.config, f"{_machine(runtime)}, {torch.__version__}"
    form = runtime.attention
    if form == "auto":
        shape = seq_len, c.n_heads, c.kv_heads, c.head_width
        is_cpu = runtime.device.type == "cpu"
        is_open = is_cpu and SHORTEST <= seq_len <= LONGEST and not is_packed and runtime.context == 1
        key = f"attention {shape} {runtime.dtype}, {machine}"
        is_blocks = is_open and _measured(runtime, key, "blocks", lambda: fastest_form(shape, runtime.dtype))
        # On a CPU each new set of documents would be compiled once more.
        by_document = is_packed and seq_len >= PACKED and not (is_cpu and runtime.compile)
        form = "documents" if by_document else "blocks" if is_blocks else "fused"
    set_attention(model, form)
    if runtime.compile == "auto" and runtime.row_ranks > 1:
        runtime.compile = False
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
    device = runtime.device
    # Rank 0 measures alone, and a divided block would wait for the others.
    block = Block(model.config).to(device) if is_sharded(model) else model.layers[0]
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
