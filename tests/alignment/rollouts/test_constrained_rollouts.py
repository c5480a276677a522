"""Rollouts that are held to a constraint: what is drawn, how it is scored, and what a run learns and stores."""

import json
from pathlib import Path

import pytest
import torch
from policy_run_fixtures import base, configured, prompts, require_exact_resume, trained
from ppo_jobs import configured as ppo_configured
from safetensors import safe_open

from babyllm.errors import UserError
from babyllm.generation.constraints.constraint import Constraint
from babyllm.loading import load
from babyllm.model.cross_entropy import IGNORE
from babyllm.rollouts.allowed_tokens import AllowedTokens
from babyllm.rollouts.answering_prompts import draw_answers
from babyllm.rollouts.rollout_stream import Rollouts
from babyllm.runtime import Runtime
from babyllm.training.stages.policy import grpo, ppo

__all__ = ["base", "prompts"]

CHOICES = ["a", "bad", "b"]
HELD = "--rollout.choices=[a, bad, b]"


@pytest.mark.parametrize("temperature", [0.7, 1.0])
@pytest.mark.parametrize(
    "constraint", [Constraint("regex", "[ab]{2,9}c?"), Constraint.of_choices(CHOICES)], ids=["regex", "choices"]
)
def test_the_model_scores_what_the_engine_drew(base: Path, temperature: float, constraint: Constraint) -> None:
    """Log-probabilities of constrained draws are the model's over the tokens that are found again, within 1e-5."""
    model, tokenizer = load(base)
    ends = [tokenizer.eos_id]
    drawn = draw_answers(
        model,
        [[1, 5, 9]] * 12,
        range(12),
        max_new_tokens=6,
        temperature=temperature,
        end_ids=ends,
        slots=5,
        constraint=constraint,
        tokenizer=tokenizer,
    )
    targets = torch.full((12, 8), IGNORE)
    tokens = torch.tensor([[1, 5, 9, 0, 0, 0, 0, 0]] * 12)
    for row, each in enumerate(drawn):
        targets[row, 2 : 2 + len(each.ids)] = torch.tensor(each.ids)
        tokens[row, 3 : 2 + len(each.ids)] = torch.tensor(each.ids[:-1])
    allowed = AllowedTokens(constraint, tokenizer, ends, model.config.vocab_size)(targets)
    with torch.no_grad():
        nats = model(tokens, targets, temperature=temperature, allowed=allowed)
        free = model(tokens, targets, temperature=temperature)
    for row, each in enumerate(drawn):
        found = -nats[row, 2 : 2 + len(each.ids)]
        torch.testing.assert_close(found, torch.tensor(each.logprobs), rtol=0, atol=1e-5)
    assert (free >= nats - 1e-5).all() and free.sum() > nats.sum() + 12
    assert (allowed[targets == IGNORE] == 0xFF).all()
    assert {each.finish for each in drawn} >= {"stop"}


def of_rollouts(run_dir: Path) -> list[str]:
    """The texts of the rollouts' answers that a run has recorded."""
    lines = [json.loads(line) for line in (run_dir / "samples.jsonl").read_text(encoding="utf-8").splitlines()]
    return [line["text"] for line in lines if line["name"].startswith("rollout/")]


@pytest.mark.parametrize("algorithm", ["grpo", "ppo"])
def test_choices_are_learned_among(algorithm: str, base: Path, prompts: Path, tmp_path: Path, runtime: Runtime) -> None:
    """Every answer is one of the choices, the first ratio is one, and the reward rises."""
    of, begin = (configured, grpo.begin) if algorithm == "grpo" else (ppo_configured, ppo.begin)
    more = (HELD, "--rollout.samples=32", "--data.global_batch=32", "--loss.kl.place=loss", "--reward.pattern=bad")
    config = of(base, prompts, tmp_path / "run", *more, "--plan.steps=16", "--plan.peak_lr=0.01")  # type: ignore[operator]
    stage = begin(config, runtime)  # type: ignore[operator]
    seen = trained(stage)
    rewards = [step["rollout/reward"] for step in seen]
    texts = of_rollouts(tmp_path / "run")
    assert len(texts) == 8 * 32 and set(texts) == set(CHOICES)
    assert seen[0]["ratio"] == pytest.approx(1.0, abs=1e-5) and seen[0]["kl"] == pytest.approx(0.0, abs=1e-6)
    assert 0 < seen[0]["entropy"] < 1.2 and seen[0]["rollout/truncated"] == 0
    assert sum(rewards[-4:]) > sum(rewards[:4]) + 4 * 0.2, rewards


@pytest.mark.parametrize("algorithm", ["grpo", "ppo"])
def test_a_run_goes_on_amid_a_constrained_rollout_to_the_bit(
    algorithm: str, base: Path, prompts: Path, tmp_path: Path, runtime: Runtime
) -> None:
    """What was allowed is found again on resuming, and is in no file; answers that are cut are among them."""
    of, begin = (configured, grpo.begin) if algorithm == "grpo" else (ppo_configured, ppo.begin)
    more = ("--rollout.regex=[ab]{3,9}", "--loss.kl.place=reward", "--loss.entropy=0.01")
    config = of(base, prompts, tmp_path / "run", *more)  # type: ignore[operator]
    require_exact_resume(lambda: begin(config, runtime), tmp_path)  # type: ignore[operator]
    with safe_open(tmp_path / "straight" / "step_00000003" / "stream.safetensors", "pt") as stored:
        names = list(stored.keys())
    assert names and not [name for name in names if "allowed" in name]
    state = begin(config, runtime).state  # type: ignore[operator]
    batch = next(state.stream)[0]
    assert batch["truncated"].any() and batch["allowed"].shape[:2] == batch["targets"].shape
    assert (batch["allowed"] != 0xFF).any()


def test_a_run_goes_on_with_its_own_constraint_alone(
    base: Path, prompts: Path, tmp_path: Path, runtime: Runtime
) -> None:
    """Another constraint, or none, is refused by the names of the options."""

    def stream(*more: str) -> Rollouts:
        found = grpo.begin(configured(base, prompts, tmp_path / "run", *more), runtime).state.stream
        assert isinstance(found, Rollouts)
        return found

    stored = stream(HELD).state_dict()
    stream(HELD).load_state_dict(stored)
    for more, names in (
        ((), "rollout.choices"),
        (("--rollout.choices=[a]",), "rollout.choices"),
        (("--rollout.regex=a",), "rollout.regex, rollout.choices"),
    ):
        with pytest.raises(UserError, match=f"^{names}: not as when the run began"):
            stream(*more).load_state_dict(stored)
    assert "rollout.choices" not in stream().state_dict()["made_of"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((HELD, "--rollout.regex=a"), r"^--rollout.regex and --rollout.choices both say what an answer may say"),
        (("--rollout.schema=no.json",), r"^--rollout.schema=no.json: cannot be read"),
        (('--rollout.schema={"not": {}}',), r"^the JSON schema cannot be used"),
    ],
)
def test_constraints_that_cannot_be_are_refused(
    flags: tuple[str, ...], message: str, base: Path, prompts: Path, tmp_path: Path, runtime: Runtime
) -> None:
    """A wrong constraint ends the run before its first rollout."""
    with pytest.raises(UserError, match=message):
        grpo.begin(configured(base, prompts, tmp_path / "run", *flags), runtime)
