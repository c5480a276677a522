"""Stages after pretraining, divided among ranks, for processes of their own."""

import json
import weakref
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed.fsdp  # noqa: F401 (imported before the fork, not in each job)
import torch.distributed.tensor._utils  # noqa: F401
from torch.utils._python_dispatch import TorchDispatchMode

from babyllm.config import parse
from babyllm.parallel.tensors import local
from babyllm.parallel.twin import readable, whole
from babyllm.runtime import Runtime, RuntimeConfig, start
from babyllm.training import checkpoint
from babyllm.training.loop import train
from babyllm.training.stage import Beginning
from babyllm.training.stages import fine_tuning
from babyllm.training.stages.fine_tuning_config import FineTuneConfig
from babyllm.training.stages.policy import grpo, ppo
from babyllm.training.stages.policy.grpo_config import GrpoConfig
from babyllm.training.stages.policy.ppo_config import PpoConfig
from babyllm.training.stages.preference import classifier, dpo, reward
from babyllm.training.stages.preference.classifier_config import ClassifierConfig
from babyllm.training.stages.preference.dpo_config import DpoConfig
from babyllm.training.stages.preference.reward_config import RewardConfig
from babyllm.training.state import Every, TrainState

STAGES: dict[str, tuple[type[Any], Callable[[Any, Runtime], Beginning]]] = {
    "sft": (FineTuneConfig, fine_tuning.begin),
    "reward": (RewardConfig, reward.begin),
    "classifier": (ClassifierConfig, classifier.begin),
    "dpo": (DpoConfig, dpo.begin),
    "grpo": (GrpoConfig, grpo.begin),
    "ppo": (PpoConfig, ppo.begin),
}
N_STEPS, MIDDLE = 3, 2


class Alive(TorchDispatchMode):
    """Counts the bytes of float32 that are in memory at once, outside of mapped files."""

    def __init__(self) -> None:
        super().__init__()
        self._alive: dict[int, int] = {}
        self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if type(out) is torch.Tensor and (out.dtype, out.device.type) == (torch.float32, "cpu"):
            storage = out.untyped_storage()
            if storage.data_ptr() not in self._alive and storage.nbytes():
                self._alive[storage.data_ptr()] = storage.nbytes()
                self.most = max(self.most, sum(self._alive.values()))
                weakref.finalize(storage, self._alive.pop, storage.data_ptr(), None)
        return out


def stage_runs(runs: dict[str, list[str]], resumed: Sequence[str] = (), context: int = 1) -> None:
    """Of each run, by its folder, leave the metrics of its steps and held-out results.

    Those whose folders are in `resumed` are also made from the middle. The first of a run's arguments is the name of
    the stage; after "read" the stage is only begun. Each rank leaves the shapes that it holds of each parameter, and of
    "read" the most bytes.
    """
    with start(RuntimeConfig(device="cpu", dtype="float32", threads=1), context=context) as runtime:
        for out, (stage, *arguments) in runs.items():
            is_read = stage == "read"
            cls, begin = STAGES["sft" if is_read else stage]
            config = parse(cls, [*arguments, f"--run_dir={out}/run"], prog="test")
            with Alive() if is_read else nullcontext(Alive()) as alive:
                begun = begin(config, runtime)
            held = {n: [list(p.shape), local(p).nbytes, p.itemsize] for n, p in begun.state.model.named_parameters()}
            Path(out, f"{runtime.rank}.json").write_text(json.dumps([held, alive.most]), encoding="utf-8")
            if is_read:
                continue
            straight = _run(begun, Path(out, "straight"))
            middle = Path(out, "straight", f"step_{MIDDLE:08d}")
            again = _run(begin(config, runtime), Path(out, "resumed"), middle) if out in resumed else []
            if runtime.is_main:
                Path(out, "seen.json").write_text(json.dumps([straight, again]), encoding="utf-8")


def _run(stage: Beginning, folder: Path, middle: Path | None = None) -> list[dict[str, float]]:
    state = stage.state
    if middle:
        checkpoint.load(state, middle)
    seen: list[dict[str, float]] = []

    def look(state: TrainState) -> None:
        of_stream = {k: v for k, v in state.stream.metrics().items() if "second" not in k and "per_s" not in k}
        seen.append(state.take_metrics() | of_stream | {"grad_norm": state.grad_norm})
        checkpoint.save(state, folder, None, keep=9)

    train(state, stage.loss, replace(stage.plan, steps=N_STEPS), [Every(1, look)])
    with whole(state.model):
        state.model = readable(state.model)
        seen.append(stage.measure(state))
        stage.show(state)
    return seen


JOBS = {"stage_runs": stage_runs}
