"""GRPO as a stage: it learns, resumes to the bit amid a rollout, and ranks do not change it."""

import json
from pathlib import Path

import pytest
from policy_run_fixtures import (
    base,
    configured,
    prompts,
    require_equal_ranks,
    require_exact_resume,
    trained,
)
from training_fixtures import Worker

from babyllm.errors import UserError
from babyllm.runtime import Runtime
from babyllm.training.stage import train_stage
from babyllm.training.stages.policy.grpo import begin

__all__ = ["base", "prompts"]


@pytest.fixture(scope="module")
def worker(worker: Worker) -> Worker:
    """Processes for the jobs of these tests."""
    worker.load("tests.alignment.policy.policy_run_fixtures")
    return worker


LOSSES = ("grpo", "dr_grpo", "dapo", "gspo", "cispo", "reinforce")


@pytest.mark.parametrize("loss", LOSSES)
def test_each_loss_raises_what_is_rewarded(
    loss: str, base: Path, prompts: Path, tmp_path: Path, runtime: Runtime
) -> None:
    """Some rollouts raise the reward on held-out prompts, and the first step has a ratio of one."""
    epochs = "1" if loss == "reinforce" else "2"
    more = ("--plan.steps=16", "--data.global_batch=32", f"--loss.loss={loss}", f"--rollout.epochs={epochs}")
    config = configured(base, prompts, tmp_path / "run", *more, "--plan.peak_lr=0.02")
    stage = begin(config, runtime)
    before = stage.measure(stage.state)
    stage = begin(config, runtime)
    seen = trained(stage)
    assert seen[0]["ratio"] == pytest.approx(1.0, abs=1e-5)
    after = stage.measure(stage.state)
    assert after["all/reward"] > before["all/reward"] + 0.2, (before, after)


@pytest.mark.parametrize(
    "more",
    [
        (),
        ("--lora.rank=4", "--loss.kl.place=loss", "--rollout.resample=1"),
        ("--loss.kl.place=reward", "--loss.kl.target=0.01", "--loss.mask_truncated"),
    ],
    ids=["full", "lora", "kl"],
)
def test_a_run_goes_on_amid_a_rollout_to_the_bit(
    more: tuple[str, ...], base: Path, prompts: Path, tmp_path: Path, runtime: Runtime
) -> None:
    """From a step amid a rollout every later metric, and every file of the last step, is that of the straight run."""
    config = configured(base, prompts, tmp_path / "run", *more)
    require_exact_resume(lambda: begin(config, runtime), tmp_path)


@pytest.mark.parametrize("sizes", [{1: 8, 2: 2}, pytest.param({1: 8, 2: 4, 4: 2}, marks=pytest.mark.campaign)])
def test_ranks_train_as_one(base: Path, prompts: Path, tmp_path: Path, worker: Worker, sizes: dict[int, int]) -> None:
    """After two steps on several ranks the weights are those of one within 1e-5, and so is every number."""
    given = {"base": str(base), "prompts": str(prompts)}
    numbers = require_equal_ranks(worker, "grpo_steps", tmp_path, sizes, 1e-5, **given)
    assert all("rollout/reward" in step for step in numbers)


def test_a_run_leaves_answers_to_leaf_through(base: Path, prompts: Path, tmp_path: Path) -> None:
    """A whole run records rewards, writes samples.jsonl and samples.html, and goes on where it ended."""
    run_dir = tmp_path / "run"
    train_stage(configured(base, prompts, run_dir, "--plan.steps=2", "--eval_every=1"), begin)
    train_stage(configured(base, prompts, run_dir, "--plan.steps=4", "--eval_every=1"), begin)
    lines = [json.loads(line) for line in (run_dir / "samples.jsonl").read_text(encoding="utf-8").splitlines()]
    rollouts = [line for line in lines if line["name"].startswith("rollout/")]
    assert [line["step"] for line in rollouts] == [1] * 4 + [3] * 4
    assert set(rollouts[0]) >= {"prompt", "text", "rewards", "advantage", "finish"}
    page = (run_dir / "samples.html").read_text(encoding="utf-8")
    assert page.count("<article") >= 4 and "http" not in page
    metrics = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {"rollout/reward", "rollout/flat", "rollout/truncated", "clip/low", "entropy"} <= set(metrics[-1])
    assert "val/all/reward" in metrics[0] and "val/all/reward_stderr" in metrics[-1]
    shown = [line for line in lines if line["name"] == "sample/0"]
    assert [line["step"] for line in shown] == [0, 1, 2, 3, 4] and all("[reward " in line["text"] for line in shown)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--data.global_batch=18",), "does not divide into groups of rollout.group=4 on 1 ranks"),
        (("--data.max_prompt=30",), "no room for prompts of 30 tokens"),
        (("--data.max_prompt=1",), "no prompt is left to train on"),
        (("--reward.functions={nothing: 1}",), "there is no nothing; write one of exact_match"),
        (("--reward.functions={sql: 1}",), "give --reward.databases"),
        (("--loss.loss=reinforce", "--rollout.group=1"), "give at least 2"),
    ],
)
def test_what_cannot_be_is_refused(
    flags: tuple[str, ...], message: str, base: Path, prompts: Path, tmp_path: Path, runtime: Runtime
) -> None:
    """Settings that do not fit each other are refused by name before the first step."""
    with pytest.raises(UserError, match=message):
        begin(configured(base, prompts, tmp_path / "run", *flags), runtime)
