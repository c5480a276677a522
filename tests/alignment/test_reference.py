"""The reference of a policy, and what a rollout is given for PPO."""

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from model_fixtures import Tiny, decisive, stirred
from torch import Tensor

from babyllm.data.batch import Batch
from babyllm.errors import UserError
from babyllm.interop.huggingface import save_model
from babyllm.model.adapt.lora import LoraConfig, add_lora
from babyllm.model.cross_entropy import IGNORE
from babyllm.model.options import ModelOptions
from babyllm.model.transformer import Transformer
from babyllm.objectives.policy.credit import Credit
from babyllm.objectives.policy.losses import policy_loss
from babyllm.objectives.policy.policy_options import CreditOptions, KlConfig, PolicyOptions, ValueOptions
from babyllm.tokenizer import Tokenizer
from babyllm.training.stages.policy.critic import Critique, values_of, with_critic
from babyllm.training.stages.policy.critic_config import CriticConfig
from babyllm.training.stages.policy.reference import make_reference


@pytest.fixture
def stored(tmp_path: Path, tiny: Tiny, tokenizer: Tokenizer) -> tuple[Transformer, str]:
    """A model and the directory it is stored in."""
    model = decisive(replace(tiny(), vocab_size=tokenizer.vocab_size))
    save_model(tmp_path, model, tokenizer)
    return model, str(tmp_path)


@pytest.fixture
def answers() -> tuple[Tensor, Tensor]:
    """(4, 9) ids and the targets (4, 8): answers of 3 to 6 tokens after prompts of two."""
    whole = torch.randint(20, 300, (4, 9), generator=torch.Generator().manual_seed(0))
    targets = whole[:, 1:].clone()
    targets[:, 0] = IGNORE
    for row in range(4):
        targets[row, 4 + row :] = IGNORE
    return whole, targets


def test_a_reference_stays_what_the_policy_was(stored: tuple[Transformer, str], answers: tuple[Tensor, Tensor]) -> None:
    """A frozen copy, or the policy with its adapter switched off, at the temperature of the draws; dropout is off."""
    model, directory = stored
    whole, targets = answers
    expected = -model(whole[:, :-1], targets, temperature=0.7).detach()
    trained = copy.deepcopy(model)
    with torch.no_grad():
        for weight in trained.parameters():
            weight.mul_(1.1)
    adapted = stirred(add_lora(copy.deepcopy(model), LoraConfig(rank=2)))
    for policy, is_policy in ((trained, False), (adapted.train(), True)):
        reference = make_reference(directory, policy, ModelOptions())
        assert reference.is_policy == is_policy and (reference.model is policy) == is_policy
        found = reference(whole[:, :-1], targets, 0.7, micro_batch=3)
        torch.testing.assert_close(found, expected)
        assert not found.requires_grad and (policy(whole[:, :-1], targets, temperature=0.7) + found).abs().max() > 0.01
    assert adapted.training
    with pytest.raises(UserError, match="the reference of the policy is the model that the run began with"):
        make_reference(f"{directory}/missing", model, ModelOptions())


@pytest.mark.parametrize("of", ["own", "trunk"])
def test_a_rollout_is_given_what_the_loss_reads(
    stored: tuple[Transformer, str], tokenizer: Tokenizer, answers: tuple[Tensor, Tensor], of: str
) -> None:
    """On fresh answers the ratio is 1, nothing is clipped, and the divergence from the policy's own start is 0."""
    policy, directory = stored
    whole, targets = answers
    config = CriticConfig(of=of)  # type: ignore[arg-type]
    model = with_critic(copy.deepcopy(policy), config, tokenizer, reward_model="none")
    old = -policy(whole[:, :-1], targets, temperature=0.7).detach()
    kl = KlConfig("reward", coefficient=0.1)
    reference = make_reference(directory, model, ModelOptions())
    critique = Critique(model, Credit(CreditOptions(), kl), reference, temperature=0.7, micro_batch=2)
    scores, is_truncated = torch.tensor([1.0, 2, 3, 4]), torch.tensor([False, True, False, False])
    found = critique(whole, targets, old, scores, is_truncated)
    assert {name: x.shape for name, x in found.items()} == dict.fromkeys(found, torch.Size((4, 8)))
    torch.testing.assert_close(found["values"], values_of(model, whole, 4)[:, :-1])
    assert critique.metrics["kl/answer"] == pytest.approx(0, abs=1e-5)
    assert critique.metrics["score"] == 2.5 and critique.metrics["truncated"] == 0.25
    loss = policy_loss(PolicyOptions("ppo", kl=kl), max_answer=8, temperature=0.7, critic=ValueOptions())
    units = {"token": int((targets != IGNORE).sum()), "sequence": 4}
    terms = loss(model, Batch({"tokens": whole[:, :-1], "targets": targets, "old": old, **found}, units))
    mean = {name: float(total / n) for name, (total, n) in terms.metrics.items()}
    assert mean["ratio"] == pytest.approx(1, abs=1e-5) and mean["clip/low"] == mean["clip/high"] == 0
    assert mean["kl"] == pytest.approx(0, abs=1e-6) and mean["value_loss"] > 0
