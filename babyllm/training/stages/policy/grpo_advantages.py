"""The advantages of a group's answers, less what they pay for leaving the reference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from babyllm.model.cross_entropy import IGNORE
from babyllm.objectives.policy.advantages import Scale, group_advantages, leave_one_out
from babyllm.objectives.policy.kl import adapted_coefficient, measured
from babyllm.objectives.policy.policy_options import PolicyOptions
from babyllm.rollouts.rollout_stream import Rollout
from babyllm.runtime import Runtime
from babyllm.training.stages.policy.reference_model import Reference


@dataclass
class GroupAdvantages:
    """Makes "advantages" (n, 1) and, with a divergence, "reference" (n, T) of a rollout.

    A divergence in the reward is charged to the whole answer, by k1: its reward less the coefficient times the sum of
    old - reference over its tokens.

    Attributes:
        options: loss of the policy.
        scale: what rewards are divided by.
        group: answers to a prompt.
        runtime: runtime of the run.
        reference: log-probabilities of the reference; None without a divergence.
        coefficient: present weight of the divergence.
    """

    options: PolicyOptions
    scale: Scale
    group: int
    runtime: Runtime
    reference: Reference | None
    coefficient: float

    def __call__(self, rollout: Rollout) -> dict[str, Tensor]:
        """The tensors of a rollout; every rank must call it."""
        tensors, rewards, found = rollout.tensors, rollout.rewards, dict[str, Tensor]()
        if self.reference is not None:
            found["reference"] = self.reference(tensors["tokens"], tensors["targets"], tensors.get("allowed"))
            mask = tensors["targets"] != IGNORE
            numbers, of_answers = measured(tensors["old"], found["reference"], mask, self.runtime.sum)
            rollout.numbers |= numbers
            if self.options.kl.place == "reward":
                rewards = rewards - self.coefficient * of_answers
                rollout.numbers["kl_coefficient"] = self.coefficient
                if self.options.kl.target:
                    now = rollout.numbers["answer_kl"]
                    self.coefficient = adapted_coefficient(self.coefficient, now, self.options.kl.target)
        if self.options.loss == "reinforce":
            advantages = leave_one_out(rewards, self.group)
        else:
            advantages = group_advantages(rewards, self.group, self.scale, self.runtime.sum)
        return found | {"advantages": advantages.to(torch.float32).unsqueeze(1)}

    def state(self) -> dict[str, Any]:
        """The coefficient, which is adapted from rollout to rollout."""
        return {"coefficient": self.coefficient}

    def load(self, state: dict[str, Any]) -> None:
        """Go on with a stored coefficient."""
        self.coefficient = state["coefficient"]
