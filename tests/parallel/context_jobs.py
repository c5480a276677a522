"""Small runs whose rows are split among ranks, for processes of their own."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed.fsdp  # noqa: F401 (imported before the fork, not in each job)
import torch.distributed.tensor._utils  # noqa: F401
from torch.profiler import ProfilerActivity, profile
from training_fixtures import CPU, recording, stopping, tiny_config, tiny_state

from babyllm.model.attention import set_attention
from babyllm.model.config import ModelConfig
from babyllm.model.options import ModelOptions
from babyllm.model.transformer import Transformer
from babyllm.objectives.lm import language_model
from babyllm.parallel.config import ParallelConfig
from babyllm.parallel.distribute import prepare
from babyllm.runtime import Runtime, start
from babyllm.training import checkpoint
from babyllm.training.loop import train
from babyllm.training.state import Every
from tests.parallel.sharded_runs import left_by

KEEP_ALL, HALF, END = 99, 5, 10


@dataclass(frozen=True)
class Kind:
    """What is trained, apart from how it is divided."""

    model: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    dtype: torch.dtype = torch.float32
    micro_batches: int = 1


SHAPE: dict[str, Any] = {"n_layers": 2, "d_model": 32, "n_heads": 4, "n_kv_heads": 2, "max_seq_len": 64}
KINDS = {
    "documents": Kind({"qk_norm": True}, {"mask_documents": True, "seq_len": 32}, micro_batches=2),
    "recomputed": Kind({"activation_checkpointing": True}, {"mask_documents": True, "seq_len": 32}),
    "uneven": Kind({"tie_embeddings": True, "activation_checkpointing": "selective"}, {"seq_len": 19}, micro_batches=2),
    "dropout": Kind({"dropout": 0.1, "activation_checkpointing": True}),
    "bf16": Kind({}, {"mask_documents": True}, torch.bfloat16),
}


def shared_run(
    runtime: Runtime, data: str, out: str, kind: str, parallel: ParallelConfig, until: int = 0, resume: str = ""
) -> None:
    """Train to step `until`, save every fifth step, and leave what is seen on the way in `out`."""
    what = KINDS[kind]
    runtime = replace(runtime, dtype=what.dtype)
    config = tiny_config(Path(data), micro_batch=8 // runtime.data_ranks // what.micro_batches)
    options = ModelOptions(**{**SHAPE, **what.model})
    config = replace(config, model=options, parallel=parallel, data=replace(config.data, **what.data))
    state = tiny_state(config, runtime)
    set_attention(state.model, "documents" if kind == "documents" else "fused")
    if resume:
        checkpoint.load(state, Path(resume))
    losses: list[float] = []
    norms: list[float] = []
    widths: set[int] = set()
    watched = state.model.layers[1].register_forward_pre_hook(lambda block, inputs: widths.add(inputs[0].shape[1]))
    every = [
        recording(losses),
        Every(1, lambda state: norms.append(state.grad_norm)),
        Every(5, lambda state: checkpoint.save(state, Path(out), None, KEEP_ALL)),
        stopping(until),
    ]
    train(state, language_model, replace(config.plan, steps=END), every)
    watched.remove()
    seen = {
        "losses": losses,
        "norms": norms,
        "tokens": state.tokens,
        "widths": sorted(widths),
        **left_by(state, config.data),
    }
    Path(out, f"{runtime.rank}.json").write_text(json.dumps(seen), encoding="utf-8")


def held_bytes(runtime: Runtime, parallel: ParallelConfig) -> int:
    """Bytes that eight layers leave for the backward pass of 32 more tokens of each of 4 rows."""
    model = prepare(Transformer(ModelConfig(300, **{**SHAPE, "n_layers": 8})), runtime, parallel).train()
    found = []
    for n_tokens in (32, 32, 64):  # the first pass makes tables
        rows = torch.arange(4 * n_tokens).view(4, n_tokens)
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
            nats = model(rows, rows)
            runtime.barrier()  # so that what was gathered is let go
        assert seen.profiler is not None and nats.requires_grad
        events = seen.profiler.kineto_results.events()
        found.append(sum(event.nbytes() for event in events if event.name() == "[memory]"))
    return found[2] - found[1]


def shared_runs(data: str, parallel: dict[str, Any], runs: Sequence[dict[str, Any]], measured: str = "") -> None:
    """Make runs one after the other, divided alike; each is the other arguments of `shared_run`.

    The file `measured` receives the bytes of `held_bytes`.
    """
    division = ParallelConfig(**parallel)
    with start(CPU, division.tensor, division.context) as runtime:
        for run in runs:
            with runtime.main_first():
                Path(run["out"]).mkdir(parents=True, exist_ok=True)
            shared_run(runtime, data, parallel=division, **run)
        n_bytes = held_bytes(runtime, division) if measured else 0
        if measured and runtime.is_main:
            Path(measured).write_text(str(n_bytes), encoding="utf-8")


JOBS = {"shared_runs": shared_runs}
