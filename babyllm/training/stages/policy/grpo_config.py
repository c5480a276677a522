"""The configuration of group-relative policy optimisation."""

from __future__ import annotations

from dataclasses import dataclass, field

from babyllm.config.values import AnyCount, AnyMembers, PathText
from babyllm.data.prompt_config import PromptConfig
from babyllm.objectives.policy.advantages import Scale
from babyllm.objectives.policy.policy_options import PolicyOptions
from babyllm.optim.config import OptimConfig
from babyllm.rollouts.rollout_config import AlarmConfig, RewardConfig, RolloutConfig
from babyllm.schedule import Plan
from babyllm.training.adapted_config import AdaptedRunConfig
from babyllm.training.run_config import settled


@dataclass(frozen=True)
class GrpoConfig(AdaptedRunConfig):
    """The configuration of `train_grpo.py`.

    Attributes:
        loss: loss of the policy.
        scale: what rewards are divided by after the mean of their group is taken off: the spread of their group, that
            of all answers of the rollout (batch), or none. The loss reinforce takes off the mean of the other answers
            instead, and divides by nothing.
        samples: number of held-out prompts whose answers are shown at each evaluation.
    """

    run_dir: PathText = "runs/grpo"
    init_from: PathText = "runs/sft"
    data: PromptConfig = field(default_factory=PromptConfig)
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(weight_decay=0.0))
    plan: Plan = field(default_factory=lambda: Plan(epochs=1.0, peak_lr=1e-4, schedule="constant"))
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)
    loss: PolicyOptions = field(default_factory=PolicyOptions)
    scale: Scale = "group"
    alarms: AlarmConfig = field(default_factory=AlarmConfig)
    log_every: AnyCount = 1
    eval_every: AnyCount = 50
    save_every: AnyCount = 50
    best: str = "all/reward"
    samples: AnyMembers = 3


def resolved(config: GrpoConfig) -> GrpoConfig:
    """The same configuration with the number of processes.

    Raises:
        UserError: there is no such device, or too few of them.
    """
    return settled(config)
