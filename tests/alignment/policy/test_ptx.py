"""Text beside a policy's answers: its share of the loss, and its place in the stream."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from policy_run_fixtures import (
    base,
    configured,
    prompts,
    require_equal_ranks,
    require_exact_resume,
    trained,
)
from training_fixtures import Worker

from babyllm.data.batch import Batch
from babyllm.errors import UserError
from babyllm.model.config import ModelConfig
from babyllm.model.transformer import Transformer
from babyllm.objectives import LossTerms
from babyllm.objectives.lm import language_model
from babyllm.objectives.policy.ptx_loss import with_ptx_loss
from babyllm.runtime import Runtime
from babyllm.training.stages.policy.grpo import begin

SHARE = ("--ptx.weight=0.5", "--ptx.rows=8", "--ptx.seq_len=24")

__all__ = ["base", "prompts"]


@pytest.fixture(scope="module")
def chats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Questions with answers."""
    file = tmp_path_factory.mktemp("chats") / "chats.jsonl"
    records = [{"prompt": f"{i}", "response": "ab" * (1 + i % 3)} for i in range(20)]
    file.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return file


def test_text_is_summed_over_its_own_tokens(tiny: Callable[..., ModelConfig]) -> None:
    """Text has the gradient of the language-modelling loss times the weight; the rest is the policy's."""
    model = Transformer(tiny())
    tokens = torch.randint(64, (2, 9), generator=torch.Generator().manual_seed(1))
    tensors = {"tokens": tokens[:, :-1], "targets": tokens[:, 1:].contiguous()}
    of_policy = LossTerms({"token": torch.zeros(())}, {})
    loss = with_ptx_loss(lambda model, batch: of_policy, 0.25)
    assert loss(model, Batch(tensors, {"token": 16, "ptx_token": 0})) is of_policy
    found = loss(model, Batch(tensors, {"token": 0, "ptx_token": 16}))
    expected = language_model(model, Batch(tensors, {"token": 16}))
    parameters = list(model.parameters())
    mine = torch.autograd.grad(found.sums["ptx_token"], parameters)
    others = torch.autograd.grad(expected.sums["token"], parameters)
    for a, b in zip(mine, others, strict=True):
        torch.testing.assert_close(a, 0.25 * b)
    assert [float(x) for x in found.metrics["ptx/loss"]] == [float(x) for x in expected.metrics["loss"]]


@pytest.mark.parametrize(
    ("job", "more"),
    [("grpo_steps", []), ("ppo_steps", []), ("ppo_steps", ["--critic.of=trunk"])],
    ids=["grpo", "ppo", "ppo on one trunk"],
)
def test_ranks_and_micro_batches_do_not_change_it(
    job: str, more: list[str], base: Path, prompts: Path, token_dir: Path, tmp_path: Path, worker: Worker
) -> None:
    """After two steps with text of token shards two ranks have the weights of one within 1e-5; no critic is needed."""
    worker.load("tests.alignment.policy.policy_run_fixtures")
    worker.load("tests.alignment.policy.ppo_jobs")
    given = {"base": str(base), "prompts": str(prompts), "more": [*SHARE, f"--ptx.path={token_dir}", *more]}
    numbers = require_equal_ranks(worker, job, tmp_path, {1: 8, 2: 4}, 1e-4, **given)
    assert all("ptx/loss" in step for step in numbers)


def test_a_run_goes_on_to_the_bit_and_learns_the_text(
    base: Path, prompts: Path, chats: Path, tmp_path: Path, runtime: Runtime
) -> None:
    """With conversations, from a step amid a rollout; their loss falls."""
    config = configured(base, prompts, tmp_path / "run", *SHARE, f"--ptx.path={chats}", "--plan.peak_lr=0.01")
    require_exact_resume(lambda: begin(config, runtime), tmp_path)
    losses = [step["ptx/loss"] for step in trained(begin(config, runtime))]
    assert losses[-1] < losses[0] - 0.5, losses


def test_a_weight_needs_a_text(base: Path, prompts: Path, tmp_path: Path, runtime: Runtime) -> None:
    """One line says which flag names it."""
    with pytest.raises(UserError, match="name what is learned, such as --ptx"):
        begin(configured(base, prompts, tmp_path / "run", "--ptx.weight=1"), runtime)
