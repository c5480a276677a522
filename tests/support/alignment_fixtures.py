"""Two stages as a user would write them on the loop: preferences over pairs, and a policy that samples its own data."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from training_fixtures import tiny_config, tiny_state

from babyllm.data.batch import Batch, RankRows
from babyllm.data.rows.arrays import RowArrays
from babyllm.generation.engine import Engine
from babyllm.generation.sampling import Sampling
from babyllm.model.config import ModelConfig
from babyllm.model.cross_entropy import IGNORE
from babyllm.model.transformer import Transformer
from babyllm.objectives import LossTerms
from babyllm.objectives.lm import language_model
from babyllm.optim.build import make_optimizer
from babyllm.optim.config import OptimConfig
from babyllm.parallel.distribute import prepare
from babyllm.runtime import Runtime, RuntimeConfig, start
from babyllm.runtime.seeds import derive_seed
from babyllm.schedule import Plan
from babyllm.training import checkpoint
from babyllm.training.loop import train
from babyllm.training.run import open_run
from babyllm.training.state import Every, TrainState

SHAPE = ModelConfig(vocab_size=16, n_layers=1, d_model=32, n_heads=2, n_kv_heads=1, d_ff=64, max_seq_len=16)
PLAN = Plan(steps=6, schedule="constant", warmup=0, peak_lr=1e-2)
BETA, LIKED = 0.1, 5
N_ROWS, N_NEW, EPOCHS = 8, 6, 2


def tiny_model() -> Transformer:
    """Always the same weights."""
    torch.manual_seed(0)
    return Transformer(SHAPE)


def log_probabilities(model: nn.Module, tokens: Tensor, targets: Tensor) -> Tensor:
    """Natural log-probabilities of `targets` (B, T), 0 where there is none."""
    nats: Tensor = model(tokens, targets)
    return -nats


class Pairs:
    """Sixteen chosen and rejected answers: tokens and targets (n, 2, T), reference log-probabilities (n, 2)."""

    def __init__(self, reference: nn.Module) -> None:
        whole = torch.randint(6, 16, (16, 2, 9), generator=torch.Generator().manual_seed(0))
        whole[:, 0, 3:] = LIKED  # what is chosen
        targets = whole[..., 1:].clone()
        targets[..., :2] = IGNORE
        self._tensors = {"tokens": whole[..., :-1].contiguous(), "targets": targets}
        with torch.no_grad():
            flat = log_probabilities(reference, *(x.flatten(0, 1) for x in self._tensors.values()))
        self._tensors["reference"] = flat.sum(1).view(16, 2)

    def __len__(self) -> int:
        return 16

    def rows(self, indices: NDArray[np.int64]) -> RowArrays:
        """The pairs, and how many units "pair" each is."""
        arrays = {name: x.numpy()[indices] for name, x in self._tensors.items()}
        return RowArrays(arrays, units={"pair": np.ones(len(indices), np.int64)})

    def lengths(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """(n,) inputs of each row: of both answers."""
        return np.full(len(indices), 16, np.int64)


def preference(model: nn.Module, batch: Batch) -> LossTerms:
    """Direct preference optimisation (Rafailov et al. 2023, equation 7)."""
    tokens, targets = (batch[name].flatten(0, 1) for name in ("tokens", "targets"))
    gains = log_probabilities(model, tokens, targets).sum(1).view(-1, 2) - batch["reference"]
    margins = BETA * (gains[:, 0] - gains[:, 1])
    loss, n = -F.logsigmoid(margins).sum(), torch.tensor(float(len(margins)))
    return LossTerms({"pair": loss}, {"loss": (loss.detach(), n), "accuracy": ((margins > 0).sum(), n)})


class Rollouts:
    """Batches that the model writes itself, each handed out EPOCHS times; the reward is the share of LIKED."""

    def __init__(self, model: Transformer, runtime: Runtime) -> None:
        self._model, self._runtime = model, runtime
        n = N_ROWS // runtime.world_size
        self._mine = range(runtime.rank * n, (runtime.rank + 1) * n)
        self._round, self._epoch = 0, EPOCHS
        self.rollout: dict[str, Tensor] = {}

    def __iter__(self) -> Iterator[list[Batch]]:
        return self

    def __next__(self) -> list[Batch]:
        if self._epoch == EPOCHS:
            self.rollout = self._sample()
            self._round, self._epoch = self._round + 1, 0
        self._epoch += 1
        first = (self._round - 1) * N_ROWS
        return [Batch(self.rollout, {"token": len(self._mine) * N_NEW}, range(first, first + N_ROWS))]

    def _sample(self) -> dict[str, Tensor]:
        """Tokens, targets and old log-probabilities (n, N_NEW), advantages (n, 1)."""
        engine, found = Engine(self._model, slots=len(self._mine)), {}
        for row in self._mine:
            seed = derive_seed(7, self._round, row)
            sampling = Sampling(N_NEW, temperature=1.0, top_k=None, seed=seed, logprobs=0)
            found[engine.submit([1], sampling)] = ([], [])  # type: ignore[var-annotated]
        while not engine.is_idle:
            for event in engine.step():
                if event.token:
                    found[event.number][0].append(event.token.id)
                    found[event.number][1].append(event.token.logprob)
        targets, old = (torch.tensor([pair[i] for pair in found.values()]) for i in (0, 1))
        rewards = (targets == LIKED).double().mean(1, keepdim=True)
        mean = self._runtime.sum([float(rewards.sum())])[0] / N_ROWS
        tokens = F.pad(targets[:, :-1], (1, 0), value=1)
        return {"tokens": tokens, "targets": targets, "old": old, "advantages": (rewards - mean).float()}

    def metrics(self) -> dict[str, float]:
        """Nothing."""
        return {}

    def leave_out(self, row: int) -> None:
        """Drop the rollout; the next one begins at `row`."""
        self._round, self._epoch, self.rollout = row // N_ROWS, EPOCHS, {}

    def state_dict(self) -> dict[str, Any]:
        """Which rollout and epoch, and the rollout itself while an epoch of it is left."""
        kept = self.rollout if self._epoch < EPOCHS else {}
        return {"round": self._round, "epoch": self._epoch, "rollout": {k: RankRows(v) for k, v in kept.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on amid a rollout with this rank's rows of it."""
        self._round, self._epoch = state["round"], state["epoch"]
        self.rollout = {name: whole[self._mine.start : self._mine.stop] for name, whole in state["rollout"].items()}


def policy(model: nn.Module, batch: Batch) -> LossTerms:
    """The clipped surrogate of proximal policy optimisation (Schulman et al. 2017, equation 7)."""
    ratio = (log_probabilities(model, batch["tokens"], batch["targets"]) - batch["old"]).exp()
    gain = torch.minimum(ratio * batch["advantages"], ratio.clamp(0.8, 1.2) * batch["advantages"])
    n = torch.tensor(float(batch["targets"].numel()))
    liked = (batch["targets"] == LIKED).sum()
    return LossTerms({"token": -gain.sum()}, {"objective": (gain.detach().sum(), n), "reward": (liked, n)})


def policy_state(runtime: Runtime) -> TrainState:
    """Step 0 of a policy run."""
    model = prepare(tiny_model(), runtime)
    optimizer = make_optimizer(model, OptimConfig())
    return TrainState(model, optimizer, runtime.scaler(), Rollouts(model, runtime), runtime)


def policy_losses(state: TrainState, plan: Plan = PLAN, save_to: Path | None = None) -> list[dict[str, float]]:
    """The metrics of each step; with `save_to` each step is saved there."""
    seen: list[dict[str, float]] = []

    def look(state: TrainState) -> None:
        seen.append({**state.take_metrics(), "grad_norm": state.grad_norm})
        if save_to:
            checkpoint.save(state, save_to, None, keep=9)

    train(state, policy, plan, [Every(1, look)])
    return seen


def policy_runs(out: str) -> None:
    """A straight run whose steps are saved, and one that goes on from its step 3, amid a rollout."""
    with start(RuntimeConfig(device="cpu", dtype="float32", threads=1)) as runtime:
        straight = policy_losses(policy_state(runtime), save_to=Path(out, "straight"))
        state = policy_state(runtime)
        checkpoint.load(state, Path(out, "straight", "step_00000003"))
        resumed = policy_losses(state, save_to=Path(out, "resumed"))
        if runtime.is_main:
            Path(out, "seen.json").write_text(json.dumps([straight, resumed]), encoding="utf-8")


def contracts(data: str, out: str) -> None:
    """Leave what each rank meets: a sample that all ranks make, metrics and rows that differ between ranks."""
    with start(RuntimeConfig(device="cpu", dtype="float32", threads=1)) as runtime:
        config = replace(tiny_config(Path(data), steps=2), run_dir=str(Path(out, "run")))
        state = tiny_state(config, runtime)

        def show(state: TrainState) -> list[tuple[str, str]]:
            return [("ranks: ", str(int(runtime.sum([1.0])[0])))]

        with open_run(config, state, None, config.plan) as run:
            train(state, language_model, config.plan, [run.saving(0), run.evaluation(1, lambda state: {}, show)])
        one = torch.tensor(1.0)
        state.take_metrics()
        state.add_metrics({f"of_{runtime.rank}": (one, one)})
        policy = policy_state(runtime)
        next(policy.stream)
        cast(Rollouts, policy.stream).rollout["targets"] = torch.zeros(1 + runtime.rank, 2)
        found = []
        calls: list[Callable[[], object]] = [
            state.take_metrics,
            lambda: checkpoint.save(policy, Path(out, "rows"), None, keep=1),
        ]
        for wrong in calls:
            try:
                wrong()
            except ValueError as error:
                found.append(str(error))
        Path(out, f"{runtime.rank}.json").write_text(json.dumps(found), encoding="utf-8")
