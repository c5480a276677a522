"""Small runs whose matrices are split among ranks, for processes of their own."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed.fsdp  # noqa: F401 (imported before the fork, not in each job)
import torch.distributed.tensor  # noqa: F401
from training_fixtures import CPU, recording, stopping, tiny_config

from babyllm.data.token_data import make_loader, open_pretraining_data
from babyllm.model.adapt.lora import LoraConfig, add_lora
from babyllm.model.options import ModelOptions
from babyllm.model.transformer import Transformer
from babyllm.objectives.lm import language_model
from babyllm.optim.average import make_average
from babyllm.optim.build import make_optimizer
from babyllm.optim.config import OptimConfig
from babyllm.parallel.config import ParallelConfig
from babyllm.parallel.distribute import prepare
from babyllm.parallel.tensors import local, whole_tensor
from babyllm.runtime import Runtime, seed_all, start
from babyllm.training import checkpoint
from babyllm.training.loop import train
from babyllm.training.stages.pretraining_model import prepared_model
from babyllm.training.state import Every, TrainState
from tests.parallel.sharded_runs import left_by

KEEP_ALL, END = 99, 10


@dataclass(frozen=True)
class Kind:
    """What is trained, apart from how it is divided."""

    model: dict[str, Any] = field(default_factory=dict)
    optim: dict[str, Any] = field(default_factory=dict)
    lora: dict[str, Any] = field(default_factory=dict)
    micro_batches: int = 1


# 18 widths of the SwiGLU on a rank, and 12 of the queries, are rows that two shards share and four cannot.
ODD = {"d_model": 30, "n_heads": 6, "n_kv_heads": 2, "head_dim": 6, "d_ff": 54}
KINDS = {
    "grouped": Kind(),
    "tied": Kind({"tie_embeddings": True, "qkv_bias": True, "activation_checkpointing": True}, micro_batches=2),
    "odd": Kind({**ODD, "qk_norm": True, "activation_checkpointing": "selective"}, {"average": 0.9}),
    "muon": Kind(optim={"matrices": "muon"}),
    "lora": Kind({"activation_checkpointing": True}, lora={"rank": 3, "base": "int8"}),
    "dropout": Kind({"dropout": 0.1}),
}


def new_state(kind: Kind, data: Path, runtime: Runtime, parallel: ParallelConfig) -> TrainState:
    """Step 0."""
    config = tiny_config(data, micro_batch=8 // runtime.data_ranks // kind.micro_batches)
    shape = {"n_layers": 2, "d_model": 32, "n_heads": 4, "n_kv_heads": 2, "max_seq_len": 64, **kind.model}
    config = replace(config, model=ModelOptions(**shape), optim=OptimConfig(**kind.optim))
    config = replace(config, parallel=parallel)
    tokens = open_pretraining_data(config.data)
    seed_all(config.plan.seed)
    alone = Transformer(config.model.build(tokens.tokens.manifest.vocab_size, config.data.longest_seq_len))
    add_lora(alone, LoraConfig(**kind.lora))
    drawn = {name: p.detach().clone() for name, p in alone.named_parameters()}
    model = prepare(alone, runtime, parallel) if kind.lora else prepared_model(config, tokens, runtime)
    assert all(torch.equal(whole_tensor(p.detach()), drawn[name]) for name, p in model.named_parameters())
    loader, _ = make_loader(config.data, tokens, model.config, runtime, config.plan, Path("unused"))
    optimizer, average = make_optimizer(model, config.optim), make_average(model, config.optim)
    return TrainState(model, optimizer, runtime.scaler(), loader, runtime, average=average)


def split_run(
    runtime: Runtime, data: str, out: str, kind: str, parallel: ParallelConfig, until: int = 0, resume: str = ""
) -> None:
    """Train to step `until`, save every fifth step, and leave what is seen on the way in `out`."""
    state = new_state(KINDS[kind], Path(data), runtime, parallel)
    if resume:
        checkpoint.load(state, Path(resume))
    losses: list[float] = []
    norms: list[float] = []
    every = [
        recording(losses),
        Every(1, lambda state: norms.append(state.grad_norm)),
        Every(5, lambda state: checkpoint.save(state, Path(out), None, KEEP_ALL)),
        stopping(until),
    ]
    train(state, language_model, replace(tiny_config(Path(data)).plan, steps=END), every)
    seen = {
        "losses": losses,
        "norms": norms,
        "tokens": state.tokens,
        "n_weights": sum(local(p).numel() for p in state.model.parameters()),
        **left_by(state, tiny_config(Path(data)).data),
        "unsplit": hashlib.sha256(local(state.model.embed_tokens.weight.detach()).numpy().tobytes()).hexdigest(),
    }
    Path(out, f"{runtime.rank}.json").write_text(json.dumps(seen), encoding="utf-8")


def split_runs(data: str, parallel: dict[str, Any], runs: Sequence[dict[str, Any]]) -> None:
    """Make runs one after the other, divided alike; each is the other arguments of `split_run`."""
    division = ParallelConfig(**parallel)
    with start(CPU, division.tensor) as runtime:
        for run in runs:
            with runtime.main_first():
                Path(run["out"]).mkdir(parents=True, exist_ok=True)
            split_run(runtime, data, parallel=division, **run)


JOBS = {"split_runs": split_runs}
