"""Rollouts that are held to a constraint: what is drawn, how it is scored, and what a run learns and stores."""

import json
import re
from pathlib import Path

import pytest
import torch
from policy_run_fixtures import base, configured, prompts, require_exact_resume, trained
from ppo_jobs import configured as ppo_configured
from safetensors import safe_open

from babyllm.errors import UserError
from babyllm.generation.constraints.constraint import Constraint
from babyllm.model.cross_entropy import IGNORE
from babyllm.model.transformer import Transformer
from babyllm.rollouts.allowed_tokens import AllowedTokens
from babyllm.rollouts.answering_prompts import draw_answers
from babyllm.runtime import Runtime
from babyllm.tokenizer import Tokenizer
from babyllm.training.stages.policy import grpo, ppo

__all__ = ["base", "prompts"]

CHOICES = ["a", "bad", "b"]
HELD = ("--rollout.choices=[a, bad, b]",)


@pytest.mark.parametrize("temperature", [0.7, 1.0])
@pytest.mark.parametrize(
    "constraint", [Constraint("regex", "[ab]{2,9}c?"), Constraint.of_choices(CHOICES)], ids=["regex", "choices"]
)
def test_the_model_scores_what_the_engine_drew(
    tokenizer: Tokenizer, temperature: float, constraint: Constraint, base: Path
) -> None:
    """Log-probabilities of constrained draws are the model's over the tokens found again, within 1e-5."""
    torch.manual_seed(1)
    model = Transformer.from_pretrained(base) if hasattr(Transformer, "from_pretrained") else _loaded(base)
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
    allowed = AllowedTokens(constraint, tokenizer, ends, model.config.vocab_size)
    finishes = set()
    for each in drawn:
        tokens = torch.tensor([[1, 5, 9, *each.ids]])
        targets = tokens[:, 1:].clone()
        targets[:, :2] = IGNORE
        with torch.no_grad():
            found = model(
                tokens[:, :-1],
                targets,
                temperature=temperature,
                allowed=allowed(targets),
                returns=("nats", "entropy"),
            )
        torch.testing.assert_close(-found["nats"][0, 2:], torch.tensor(each.logprobs), rtol=0, atol=1e-5)
        free = model(tokens[:, :-1], targets, temperature=temperature)[0, 2:]
        assert (free > found["nats"][0, 2:] - 1e-5).all() and free.sum() > found["nats"].sum() + 0.1
        finishes.add(each.finish)
    assert "stop" in finishes
