"""Tiny runs of PPO, for processes of their own too."""

from pathlib import Path
from typing import Any

import torch

from babyllm.config import parse
from babyllm.runtime import Runtime, RuntimeConfig, start
from babyllm.training import checkpoint
from babyllm.training.loop import train
from babyllm.training.stages.policy.ppo import begin
from babyllm.training.stages.policy.ppo_config import PpoConfig
from babyllm.training.state import Every, TrainState

PATTERN = ".*a.*"


def configured(base: Path, prompts: Path, run_dir: Path, *more: str) -> PpoConfig:
    """A run of eight steps of 16 answers, two for each rollout, which rewards the letter a."""
    arguments = [
        *(f"--init_from={base}", f"--data.path={prompts}", f"--run_dir={run_dir}", "--data.template=chatml"),
        *("--data.seq_len=32", "--data.max_new_tokens=6", "--data.max_prompt=26", "--data.global_batch=16"),
        *("--rollout.epochs=2", "--data.held_out=4", "--plan.steps=8", "--plan.peak_lr=0.003", "--critic.of=own"),
        *("--reward.functions={format: 1}", f"--reward.pattern={PATTERN}", "--save_every=0", "--eval_every=0"),
        *("--credit.truncated=score", "--loss.kl.coefficient=0.01"),
        *("--runtime.device=cpu", "--runtime.dtype=float32", "--runtime.threads=1", "--runtime.processes=1", *more),
    ]
    return parse(PpoConfig, arguments, prog="test")


def trained(config: PpoConfig, runtime: Runtime, save_to: Path | None = None, load: Path | None = None) -> Any:
    """The beginning of a run that was trained to its end, and the metrics of each step."""
    stage = begin(config, runtime)
    if load:
        checkpoint.load(stage.state, load)
    seen: list[dict[str, float]] = []

    def look(state: TrainState) -> None:
        of_stream = {k: v for k, v in state.stream.metrics().items() if "second" not in k and "per_s" not in k}
        seen.append(state.take_metrics() | of_stream | {"grad_norm": state.grad_norm})
        if save_to:
            checkpoint.save(state, save_to, None, keep=99)

    train(stage.state, stage.loss, stage.plan, [Every(1, look)])
    return stage, seen


def ppo_steps(base: str, prompts: str, out: str) -> None:
    """Leave the metrics, and the weights after two steps, of a run on all ranks."""
    with start(RuntimeConfig(device="cpu", dtype="float32", threads=1)) as runtime:
        config = configured(Path(base), Path(prompts), Path(out, "run"), "--plan.steps=2", "--data.micro_batch=4")
        stage, seen = trained(config, runtime)
        flat = torch.cat([p.detach().flatten() for p in stage.state.model.parameters()])
        torch.save((flat, seen), Path(out, f"{runtime.rank}.pt"))


JOBS = {"ppo_steps": ppo_steps}
