"""Runs of a policy with a critic over answers that are given, for processes of their own."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from alignment_fixtures import SHAPE
from numpy.typing import NDArray

from babyllm.data.loader import Loader
from babyllm.data.order.shuffle import Shuffled
from babyllm.data.row_config import Share
from babyllm.data.rows.arrays import RowArrays
from babyllm.model.adapt.lora import LoraConfig, add_lora
from babyllm.model.cross_entropy import IGNORE
from babyllm.model.heads import ActorCritic, WithHead
from babyllm.model.interface import Model
from babyllm.model.transformer import Transformer
from babyllm.objectives.policy.losses import policy_loss
from babyllm.objectives.policy.policy_options import KlConfig, PolicyOptions, ValueOptions
from babyllm.optim.build import make_optimizer
from babyllm.optim.config import OptimConfig
from babyllm.parallel.distribute import prepare
from babyllm.runtime import Runtime, RuntimeConfig, start
from babyllm.schedule import Plan
from babyllm.training import checkpoint
from babyllm.training.loop import train
from babyllm.training.state import Every, TrainState

N, T = 16, 8
PLAN = Plan(steps=4, schedule="constant", warmup=0, peak_lr=1e-2)
LOSS = policy_loss(
    PolicyOptions("ppo", kl=KlConfig("loss")), max_answer=6, temperature=0.9, critic=ValueOptions(weight=0.5)
)


def two_models(critic_lr: float = 3.0) -> ActorCritic:
    """A policy and a critic of another shape."""
    torch.manual_seed(0)
    actor, trunk = Transformer(SHAPE), Transformer(replace(SHAPE, n_layers=2, d_ff=32))
    return ActorCritic(actor, WithHead(trunk, ["value"]), critic_lr=critic_lr, critic_decay=0.01)


def one_trunk() -> WithHead:
    """A policy and a critic with one trunk."""
    torch.manual_seed(0)
    return WithHead(Transformer(SHAPE), ["value"], has_output=True)


def adapted_trunk() -> WithHead:
    """A policy and a critic with one frozen trunk, an adapter and a head."""
    model = one_trunk()
    add_lora(model.model, LoraConfig(rank=2))
    return model


MODELS: dict[str, Callable[[], Model]] = {
    "two_models": two_models,
    "one_trunk": one_trunk,
    "adapted_trunk": adapted_trunk,
}


class Given:
    """Answers of one to six tokens with all that a policy's loss reads, as rows."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        targets = rng.integers(0, 16, (N, T))
        targets[:, :2] = IGNORE
        for row in range(N):
            targets[row, 3 + row % 6 :] = IGNORE
        floats = {name: rng.normal(size=(N, T)).astype(np.float32) for name in ("advantages", "values", "returns")}
        near = {name: (rng.normal(size=(N, T)) * 0.2 - 2.8).astype(np.float32) for name in ("old", "reference")}
        self._arrays = {"tokens": rng.integers(0, 16, (N, T)), "targets": targets, **floats, **near}

    def __len__(self) -> int:
        return N

    def rows(self, indices: NDArray[np.int64]) -> RowArrays:
        """The answers; each is a unit "sequence"."""
        arrays = {name: x[indices] for name, x in self._arrays.items()}
        return RowArrays(arrays, units={"sequence": np.ones(len(indices), np.int64)})

    def lengths(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """(n,) inputs of each row."""
        return np.full(len(indices), T, np.int64)


def new_state(kind: str, runtime: Runtime, micro_batch: int = 2) -> TrainState:
    """Step 0."""
    model = prepare(MODELS[kind](), runtime)
    share = Share(8, micro_batch, runtime.rank, runtime.world_size)
    loader = Loader(Shuffled(Given(), seed=0), share, seed=0)
    return TrainState(model, make_optimizer(model, OptimConfig()), runtime.scaler(), loader, runtime)


def actor_critic_runs(out: str, kind: str, micro_batch: int = 2) -> None:
    """A straight run whose steps are saved, one from its step 2, and the weights of each rank after the first step."""
    with start(RuntimeConfig(device="cpu", dtype="float32", threads=1)) as runtime:
        seen: dict[str, list[dict[str, float]]] = {"straight": [], "resumed": []}
        for name, metrics in seen.items():
            state = new_state(kind, runtime, micro_batch)
            if name == "resumed":
                checkpoint.load(state, Path(out, "straight", "step_00000002"))

            def look(state: TrainState, to: str = name, metrics: list[dict[str, float]] = metrics) -> None:
                metrics.append({**state.take_metrics(), "grad_norm": state.grad_norm})
                checkpoint.save(state, Path(out, to), None, keep=9)
                if to == "straight" and state.step == 1:
                    weights = torch.cat([p.detach().flatten() for p in state.model.parameters()])
                    np.save(Path(out, f"rank_{runtime.rank}.npy"), weights.numpy())

            train(state, LOSS, PLAN, [Every(1, look)])
        if runtime.is_main:
            Path(out, "seen.json").write_text(json.dumps(seen), encoding="utf-8")


JOBS = {"actor_critic_runs": actor_critic_runs}
