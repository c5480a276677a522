"""Small runs divided among ranks, for processes of their own; one process group makes many of them, one by one."""

import hashlib
import json
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed.fsdp  # noqa: F401 (imported before the fork, not in each job)
import torch.distributed.tensor._utils  # noqa: F401
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from training_fixtures import VOCAB_SIZE, recording, stopping, tiny_config, tiny_state

from babyllm.data.token_config import DataConfig
from babyllm.data.token_data import make_loader, open_pretraining_data
from babyllm.errors import UserError
from babyllm.evaluate.language.perplexity import perplexity
from babyllm.model.adapt.lora import LoraConfig, add_lora
from babyllm.model.heads import transformer_of
from babyllm.model.interface import Model
from babyllm.model.options import ModelOptions
from babyllm.model.transformer import Transformer
from babyllm.objectives.lm import language_model
from babyllm.optim.average import make_average
from babyllm.optim.build import make_optimizer
from babyllm.optim.config import OptimConfig
from babyllm.parallel.config import ParallelConfig
from babyllm.parallel.distribute import loss_factor, prepare
from babyllm.parallel.tensors import is_divided, local
from babyllm.parallel.twin import readable, whole
from babyllm.run_directory import step_name
from babyllm.runtime import Runtime, RuntimeConfig, seed_all, start
from babyllm.training import checkpoint
from babyllm.training.loop import train
from babyllm.training.stages.pretraining_config import PretrainConfig
from babyllm.training.state import Every, TrainState
from tests.support.disk_fixtures import files_up_to

KEEP_ALL, HALF, END = 99, 5, 10


@dataclass(frozen=True)
class Kind:
    """What is trained, apart from how it is divided."""

    model: dict[str, Any] = field(default_factory=dict)
    optim: dict[str, Any] = field(default_factory=dict)
    lora: dict[str, Any] = field(default_factory=dict)
    runtime: dict[str, Any] = field(default_factory=dict)
    micro_batches: int = 1
    steps: int = END


SHAPE = {"n_layers": 2, "d_model": 32, "n_heads": 4, "n_kv_heads": 2, "max_seq_len": 64}
# Rows that four ranks cannot share evenly; of six rows, and of an update's three, the last rank has none.
UNEVEN = {"d_model": 30, "n_heads": 3, "n_kv_heads": 1, "head_dim": 6, "d_ff": 50}
UNTIED = {"tie_embeddings": False}  # as no preset of this size has them
KINDS = {
    "long": Kind(UNTIED, steps=30),
    "plain": Kind(),
    "tied": Kind({"tie_embeddings": True, "activation_checkpointing": True}, {"average": 0.9}, micro_batches=2),
    "uneven": Kind(UNEVEN | {"qk_norm": True}),
    "muon": Kind(UNTIED, {"matrices": "muon"}),
    "uneven muon": Kind(UNEVEN | UNTIED | {"qkv_bias": True}, {"matrices": "muon"}),
    "lora": Kind({"dropout": 0.0}, {"average": 0.9}, {"rank": 3, "lora_plus": 4.0}),
    "lora int8": Kind(UNTIED, lora={"rank": 3, "base": "int8"}),
    "lora nf4": Kind(lora={"rank": 3, "base": "nf4", "double_quant": True}, micro_batches=2),
    "bf16": Kind({"tie_embeddings": True}, runtime={"dtype": torch.bfloat16}),
    "fp16": Kind(runtime={"dtype": torch.float16}, micro_batches=2),
    "dropout": Kind({"tie_embeddings": True, "dropout": 0.1, "activation_checkpointing": True}, micro_batches=2),
    "compiled": Kind(runtime={"compile": True, "compile_backend": "aot_eager"}),
}


class Sent(TorchDispatchMode):
    """Counts the bytes of weights that passes gather."""

    def __init__(self) -> None:
        super().__init__()
        self.n_bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.c10d._allgather_base_.default:
            self.n_bytes += args[0].nbytes
        return func(*args, **(kwargs or {}))


def new_state(kind: Kind, data: Path, runtime: Runtime, parallel: ParallelConfig) -> TrainState:
    """Step 0."""
    config = tiny_config(data, micro_batch=8 // runtime.world_size // kind.micro_batches)
    options = ModelOptions(**{**SHAPE, **kind.model})
    config = replace(config, model=options, optim=OptimConfig(**kind.optim), parallel=parallel)
    state = _adapter_state(config, kind.lora, runtime) if kind.lora else tiny_state(config, runtime)
    if state.scaler.is_enabled():  # it overflows at once, and again as it grows; DDP multiplies losses by its ranks
        scale = 2.0**24 / loss_factor(state.model, runtime)
        state.scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=3)
    return state


def _adapter_state(config: PretrainConfig, lora: dict[str, Any], runtime: Runtime) -> TrainState:
    """Step 0 of a random model with an adapter."""
    tokens = open_pretraining_data(config.data)
    seed_all(config.plan.seed)
    model = add_lora(Transformer(config.model.build(VOCAB_SIZE)), LoraConfig(**lora))
    model = prepare(model, runtime, config.parallel)
    loader, _ = make_loader(config.data, tokens, model.config, runtime, config.plan, Path("unused"))
    optimizer = make_optimizer(model, config.optim, config.parallel.offload)
    return TrainState(model, optimizer, runtime.scaler(), loader, runtime, average=make_average(model, config.optim))


def gathered(model: Model) -> int:
    """Numbers of the parameters that this rank has whole at this moment."""
    return sum(p.numel() for p in model.parameters() if not is_divided(p))


def watch_gathered(model: Model, found: dict[str, int]) -> None:
    """Note what is gathered within the first block's forward and backward pass."""

    def note(block: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        found["forward"] = gathered(model)
        if output.requires_grad:
            output.register_hook(lambda gradient: found.update(backward=gathered(model)))

    model.layers[0].get_submodule("mlp").register_forward_hook(note)


def left_by(state: TrainState, data: DataConfig) -> dict[str, Any]:
    """The held-out loss of a run's model, made whole, and the digest of this rank's weights."""
    with whole(state.model):
        figures = perplexity(readable(state.model), open_pretraining_data(data).tokens, state.runtime, seq_len=16)
    parts = [local(p.detach()).float().numpy().tobytes() for p in state.model.parameters()]
    return {"held_out": figures["all/loss"], "digest": hashlib.sha256(b"".join(parts)).hexdigest()}


def divided_run(
    runtime: Runtime,
    data: str,
    out: str,
    kind: str,
    parallel: dict[str, Any],
    *,
    until: int = 0,
    save_every: int = 0,
    resume: str = "",
) -> None:
    """Train to step `until`; leave each step's loss, what each rank holds, and steps in `out`."""
    what = KINDS[kind]
    runtime = replace(runtime, **what.runtime)
    state = new_state(what, Path(data), runtime, ParallelConfig(**parallel))
    if resume:
        checkpoint.load(state, Path(resume))
    losses: list[float] = []
    most: dict[str, int] = {}
    watch_gathered(state.model, most)
    every = [
        recording(losses),
        Every(save_every, lambda state: checkpoint.save(state, Path(out), None, KEEP_ALL)),
        stopping(until),
    ]
    plan = replace(tiny_config(Path(data)).plan, steps=what.steps)
    sent = Sent()
    with sent if "dtype" in what.runtime else nullcontext():
        train(state, language_model, plan, every)
    held = [local(p.detach()) for p in state.model.parameters()]
    moments = [local(x) for of in state.optimizer.state.values() for x in of.values() if isinstance(x, torch.Tensor)]
    seen = {
        "losses": losses,
        "skipped": state.skipped,
        "sent": sent.n_bytes,
        "n_weights": sum(x.numel() for x in held),
        "n_moments": sum(x.numel() for x in moments),
        "n_gradients": sum(local(p.grad).numel() for p in state.model.parameters() if p.grad is not None),
        "gathered": most,
        "n_block": sum(x.numel() for x in state.model.layers[0].parameters()),
        "n_embedding": transformer_of(state.model).embed_tokens.weight.numel(),
        "empty": sum(not x.numel() for x in held),
        "digest": hashlib.sha256(b"".join(x.float().numpy().tobytes() for x in held)).hexdigest(),
    }
    Path(out, f"{runtime.rank}.json").write_text(json.dumps(seen), encoding="utf-8")


def divided_runs(data: str, runs: Sequence[dict[str, Any]]) -> None:
    """Make runs one after the other; each is the arguments of `divided_run`."""
    with start(RuntimeConfig(device="cpu", dtype="float32", threads=1)) as runtime:
        for run in runs:
            with runtime.main_first():
                Path(run["out"]).mkdir(parents=True, exist_ok=True)
            divided_run(runtime, data, **run)


def last_step(folder: Path, step: int = END) -> Path:
    """The directory of a step that a run left."""
    return folder / step_name(step)


def full_disk(data: str, out: str) -> None:
    """Save two steps of a divided model; at the second one the disk of the last rank is full. Leave the error."""
    with start(RuntimeConfig(device="cpu", dtype="float32", threads=1)) as runtime:
        state = new_state(KINDS["plain"], Path(data), runtime, ParallelConfig(shard="zero3"))
        checkpoint.save(state, Path(out, "run"), None, KEEP_ALL)
        state.step, saver = 1, checkpoint.Saver(Path(out, "run"), None, KEEP_ALL)
        is_full = runtime.rank == runtime.world_size - 1
        error = ""
        try:
            with files_up_to(1000) if is_full else nullcontext():
                saver.save(state)
                saver.join()
        except UserError as e:
            error = str(e)
        Path(out, f"{runtime.rank}.txt").write_text(error, encoding="utf-8")
        runtime.barrier()


JOBS = {"divided_runs": divided_runs, "full_disk": full_disk}
