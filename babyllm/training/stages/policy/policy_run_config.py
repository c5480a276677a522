"""What the configurations of stages share in which a model trains on its own answers."""

from __future__ import annotations

from dataclasses import dataclass, field

from babyllm.config.values import AnyCount, AnyMembers, PathText
from babyllm.data.prompt_config import PromptConfig
from babyllm.objectives.policy.policy_options import PolicyOptions
from babyllm.optim.config import OptimConfig
from babyllm.rollouts.rollout_config import AlarmConfig, RewardConfig, RolloutConfig
from babyllm.schedule import Plan
from babyllm.training.adapted_config import AdaptedRunConfig


@dataclass(frozen=True)
class PolicyRunConfig(AdaptedRunConfig):
    """The configuration of a stage in which a model trains on its own answers.

    Attributes:
        loss: loss of the policy.
        samples: number of held-out prompts whose answers are shown at each evaluation.
    """

    init_from: PathText = "runs/sft"
    data: PromptConfig = field(default_factory=PromptConfig)
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(weight_decay=0.0))
    plan: Plan = field(default_factory=lambda: Plan(epochs=1.0, peak_lr=1e-4, schedule="constant"))
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)
    loss: PolicyOptions = field(default_factory=PolicyOptions)
    alarms: AlarmConfig = field(default_factory=AlarmConfig)
    log_every: AnyCount = 1
    eval_every: AnyCount = 50
    save_every: AnyCount = 50
    best: str = "all/reward"
    samples: AnyMembers = 3
