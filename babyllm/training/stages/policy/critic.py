"""The critic of a policy: where it comes from, and the values of what the policy wrote.

actor, CriticConfig -> with_critic -> ActorCritic, or WithHead for one trunk -> values_of -> (n, T + 1)
answers, scores -> Critique: values, credit -> what the loss of PPO reads

Legend: n answers, T places of a row.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from babyllm.errors import UserError
from babyllm.interop.huggingface import Unread, unread_with_head
from babyllm.loading import model_directory, tokenizer_directory
from babyllm.model.adapt.lora import lora_layers
from babyllm.model.heads import CRITIC, SCORE, ActorCritic, WithHead
from babyllm.model.interface import Model
from babyllm.model.transformer import Transformer
from babyllm.objectives.policy.credit import Credit, Scored
from babyllm.parallel.filling import Weights, fill, fill_head
from babyllm.reward_model import scale_of
from babyllm.tokenizer import Tokenizer
from babyllm.training.stages.policy.critic_config import CriticConfig

VALUE = "value"  # label of a critic's head


def with_critic(
    config: CriticConfig, tokenizer: Tokenizer, reward_model: str, step: Path | None, base: Unread
) -> tuple[Model, Callable[[torch.device], None]]:
    """The policy and its critic as one model on "meta", and the function that fills the critic on a device.

    Args:
        config: origin of the critic.
        tokenizer: tokenizer of the policy.
        reward_model: run, step or directory of the reward model.
        step: step directory of this run that will be loaded into the model; None for a new run.
        base: policy as it will be trained, with its adapter if it has one; its model is taken over.

    Raises:
        UserError: the reward model cannot be read or has several labels or another tokenizer; or the policy has an
            adapter, and the critic is not on its trunk.
    """
    actor = base.model
    if config.of == "trunk":
        model = WithHead(actor, [VALUE], has_output=True)
        model.lr_scales = {SCORE: config.lr}
        model.weight_decays = {} if config.weight_decay is None else {SCORE: config.weight_decay}
        return model, partial(fill_head, model)
    if lora_layers(actor):
        raise UserError(f"--critic.of={config.of}: with --lora.rank the critic is on the trunk; set --critic.of=trunk")
    weights: Weights | None = None
    if step is not None:
        critic, weights = unread_with_head(step / CRITIC)
    elif config.of == "own":
        critic = WithHead(copy.deepcopy(actor), [VALUE])
    else:
        critic, weights = _from_reward(actor, tokenizer, reward_model)
    critic.labels = (VALUE,)

    def fill_critic(device: torch.device) -> None:
        if weights is None:
            fill(critic.model, base.weights, device)
            fill_head(critic, device)
        else:
            fill(critic, weights, device)

    both = ActorCritic(actor, critic, critic_lr=config.lr, critic_decay=config.weight_decay)
    return both, fill_critic


def _from_reward(actor: Transformer, tokenizer: Tokenizer, reward_model: str) -> tuple[WithHead, Weights]:
    """The reward model, which must read the policy's tokens and have one label, and its weights."""
    advice = "give another reward model, or --critic.of=own"
    try:
        directory = model_directory(reward_model)
    except UserError as e:
        raise UserError(f"the critic begins as the reward model: {e}; {advice}") from e
    critic, weights = unread_with_head(directory)
    if len(critic.labels) != 1 or critic.has_output:
        raise UserError(f"{directory}: holds no reward model, which has one label; {advice}")
    has_same_tokens = Tokenizer.load(tokenizer_directory(directory)).sha256 == tokenizer.sha256
    if not has_same_tokens or critic.config.vocab_size != actor.config.vocab_size:
        raise UserError(f"{directory}: has another tokenizer than the policy, whose tokens the critic reads; {advice}")
    spread = scale_of(directory)[1]  # the head has no bias, so the mean is left to training
    return critic, weights.changed(lambda name, w: w.float() / spread if name.startswith(f"{SCORE}.") else w)


@torch.no_grad()
def values_of(model: Model, whole: Tensor, micro_batch: int) -> Tensor:
    """The critic's value of the state after each token, (n, T + 1) float32; `model` is left as it was.

    Values of states after the first column belong to the tokens drawn next: `values[:, t]` is that of the state in
    which the token `whole[:, t + 1]` was drawn.

    Args:
        model: the result of `with_critic`.
        whole: (n, T + 1) int64 ids, the last token of each answer included, padded on the right.
        micro_batch: rows read at a time.
    """
    was_training = model.training
    model.eval()
    try:
        found = [model(part, returns=("values",))["values"] for part in torch.split(whole, micro_batch)]
    finally:
        model.train(was_training)
    return torch.cat(found).float()


@dataclass
class Critique:
    """What the loss of PPO reads of a rollout beside its answers, made once before the first of its steps.

    Attributes:
        model: policy and critic.
        credit: what turns scores into advantages, with its memory.
        micro_batch: rows read at a time.
        metrics: numbers about the last rollout, the same on every rank.
    """

    model: Model
    credit: Credit
    micro_batch: int
    metrics: dict[str, float] = field(default_factory=dict)

    def __call__(self, whole: Tensor, found: Scored, kept: Tensor) -> dict[str, Tensor]:
        """Tensors by the names that `policy_loss` reads; every rank must call it, in one context of precision.

        Args:
            whole: (n, T + 1) int64 ids of prompts and answers, padded on the right.
            found: the answers with their scores, without values.
            kept: (n,) bool, the answers that are learned from.

        Returns:
            "advantages", "returns" and "values", each (n, T) float32; the first two are 0 for answers that are not
            learned from.
        """
        values = values_of(self.model, whole, self.micro_batch).to(found.old.device)
        of_kept = [None if x is None else x[kept] for x in found._replace(values=values)]
        credited = self.credit(Scored(*of_kept))  # type: ignore[arg-type]
        self.metrics = credited.metrics
        tensors = {"values": values[:, :-1].contiguous()}
        for name, x in (("advantages", credited.advantages), ("returns", credited.returns)):
            tensors[name] = torch.zeros_like(tensors["values"])
            tensors[name][kept] = x
        return tensors
