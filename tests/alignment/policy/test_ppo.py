"""PPO as a stage: it learns, resumes to the bit amid a rollout, and ranks do not change it."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from model_fixtures import decisive
from policy_run_fixtures import base, prompts, require_equal_ranks, require_exact_resume, trained
from ppo_jobs import configured
from training_fixtures import Worker

from babyllm.errors import UserError
from babyllm.interop.huggingface import save_model
from babyllm.model.config import ModelConfig
from babyllm.model.cross_entropy import IGNORE
from babyllm.model.heads import WithHead
from babyllm.runtime import Runtime
from babyllm.tokenizer import Tokenizer
from babyllm.training.stage import train_stage
from babyllm.training.stages.policy.ppo import begin
from babyllm.training.stages.policy.ppo_advantages import whole_rows

Tiny = Callable[..., ModelConfig]

__all__ = ["base", "prompts"]


@pytest.mark.parametrize("of", ["own", "trunk"])
def test_it_raises_what_is_rewarded(of: str, base: Path, prompts: Path, tmp_path: Path, runtime: Runtime) -> None:
    """Forty steps raise the reward on held-out prompts, and the critic comes nearer to the returns."""
    more = (
        "--plan.steps=40",
        "--data.global_batch=32",
        f"--critic.of={of}",
        "--plan.peak_lr=0.01",
        "--critic.weight=1",
    )
    config = configured(base, prompts, tmp_path / "run", *more)
    stage = begin(config, runtime)
    before = stage.measure(stage.state)
    stage = begin(config, runtime)
    seen = trained(stage)
    assert seen[0]["ratio"] == pytest.approx(1.0, abs=1e-5) and seen[0]["kl"] == pytest.approx(0.0, abs=1e-6)
    after = stage.measure(stage.state)
    assert after["all/reward"] > before["all/reward"] + 0.2, (before, after)
    assert seen[-1]["value_loss"] < seen[0]["value_loss"]


@pytest.mark.parametrize(
    "more",
    [
        ("--critic.of=own", "--loss.kl.target=0.01", "--credit.normalise"),
        ("--critic.of=trunk", "--lora.rank=4", "--optim.average=0.9"),
        ("--critic.of=own", "--optim.average=0.9", "--loss.kl.place=loss", "--critic.lr=3"),
    ],
    ids=["adaptive", "lora", "average"],
)
def test_a_run_goes_on_amid_a_rollout_to_the_bit(
    more: tuple[str, ...], base: Path, prompts: Path, tmp_path: Path, runtime: Runtime
) -> None:
    """From a step amid a rollout every later metric, and every file of the last step, is that of the straight run."""
    config = configured(base, prompts, tmp_path / "run", *more)
    require_exact_resume(lambda: begin(config, runtime), tmp_path)


@pytest.fixture(scope="module")
def worker(worker: Worker) -> Worker:
    """Processes that know these runs."""
    worker.load("tests.alignment.policy.ppo_jobs")
    return worker


@pytest.mark.parametrize("sizes", [{1: 8, 2: 2}, pytest.param({1: 8, 2: 4, 4: 2}, marks=pytest.mark.campaign)])
def test_ranks_train_as_one(base: Path, prompts: Path, tmp_path: Path, worker: Worker, sizes: dict[int, int]) -> None:
    """After two steps on several ranks the weights are those of one within 1e-5, and so are the numbers."""
    given = {"base": str(base), "prompts": str(prompts)}
    numbers = require_equal_ranks(worker, "ppo_steps", tmp_path, sizes, 1e-4, **given)
    assert all("rollout/reward" in step for step in numbers)


def test_a_reward_model_scores_and_begins_the_critic(
    base: Path, prompts: Path, tmp_path: Path, tokenizer: Tokenizer, tiny: Tiny
) -> None:
    """A whole run leaves the actor's directory with the critic in it, and goes on from there."""
    reward = tmp_path / "reward" / "step_00000001"
    reward.mkdir(parents=True)
    shape = json.loads((base / "step_00000001" / "config.json").read_text(encoding="utf-8"))
    model = WithHead(decisive(tiny(vocab_size=shape["vocab_size"]), 3))
    save_model(reward, model, tokenizer)
    flags = (f"--reward.model={reward.parent}", "--reward.functions={reward_model: 1}", "--critic.of=reward")
    more = (*flags, "--eval_every=2", "--save_every=2")
    for steps in (2, 4):
        train_stage(configured(base, prompts, tmp_path / "run", *more, f"--plan.steps={steps}"), begin)
    last = tmp_path / "run" / "step_00000004"
    assert (last / "critic" / "model.safetensors").is_file()
    metrics = [json.loads(x) for x in (tmp_path / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {"value_loss", "rollout/explained_variance", "rollout/answer_kl", "rollout/too_short"} < set(metrics[-1])
    assert "val/all/reward" in metrics[0]


def test_what_an_answer_was_drawn_after_and_led_to(base: Path) -> None:
    """Rows of whole answers hold the last token too, which is a target alone."""
    tokens = torch.tensor([[5, 6, 7, 8, 0, 0], [5, 9, 0, 0, 0, 0]])
    targets = torch.tensor([[IGNORE, 7, 8, 2, IGNORE, IGNORE], [9, 3, *[IGNORE] * 4]])
    assert whole_rows(tokens, targets).tolist() == [[5, 6, 7, 8, 2, 0, 0], [5, 9, 3, 0, 0, 0, 0]]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--critic.of=own", "--lora.rank=2"), "set --critic[.]of=trunk"),
        (("--critic.of=reward", "--reward.model=missing"), "the critic begins as the reward model"),
        (("--loss.kl.estimator=k3",), "has in the reward the gradient of no divergence"),
    ],
)
def test_what_cannot_be_is_refused(
    flags: tuple[str, ...], message: str, base: Path, prompts: Path, tmp_path: Path, runtime: Runtime
) -> None:
    """Settings that do not fit each other are refused by name before the first step."""
    with pytest.raises(UserError, match=message):
        begin(configured(base, prompts, tmp_path / "run", *flags), runtime)
