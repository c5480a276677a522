"""The section `critic` of a configuration; reading it loads no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from babyllm.config.values import Positive, Rate
from babyllm.objectives.policy.policy_options import ValueOptions


@dataclass(frozen=True)
class CriticConfig(ValueOptions):
    """The critic of a policy, and how it learns.

    Attributes:
        of: origin of the critic: reward (a copy of the reward model, head included), own (a copy of the model that the
            run begins with, with a new head) or trunk (a new head on the policy's own trunk, the only one with LoRA).
        lr: learning rate of the critic as a multiple of plan.peak_lr; of a trunk's head alone.
        weight_decay: weight decay of the critic; optim.weight_decay by default.
    """

    of: Literal["reward", "own", "trunk"] = "reward"
    lr: Positive = 1.0
    weight_decay: Rate | None = None
