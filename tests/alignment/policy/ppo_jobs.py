"""Tiny runs of PPO, for processes of their own too."""

from collections.abc import Sequence
from pathlib import Path

from babyllm.config import parse
from babyllm.runtime import RuntimeConfig, start
from babyllm.training.stages.policy.ppo import begin
from babyllm.training.stages.policy.ppo_config import PpoConfig
from tests.alignment.policy.policy_run_fixtures import PATTERN, leave_steps


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


def ppo_steps(base: str, prompts: str, out: str, micro_batch: int, more: Sequence[str] = ()) -> None:
    """Leave the metrics, and the weights after two steps, of a run on all ranks."""
    with start(RuntimeConfig(device="cpu", dtype="float32", threads=1)) as runtime:
        steps = ("--plan.steps=2", f"--data.micro_batch={micro_batch}")
        config = configured(Path(base), Path(prompts), Path(out, "run"), *steps, *more)
        leave_steps(begin(config, runtime), Path(out, f"{runtime.rank}.pt"))


JOBS = {"ppo_steps": ppo_steps}
