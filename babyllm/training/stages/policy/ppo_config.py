"""The configuration of proximal policy optimisation."""

from __future__ import annotations

from dataclasses import dataclass, field

from babyllm.config.values import PathText
from babyllm.objectives.policy.policy_options import CreditOptions, KlConfig, PolicyOptions
from babyllm.rollouts.rollout_config import AlarmConfig, RewardConfig, RolloutConfig
from babyllm.training.stages.policy.critic_config import CriticConfig
from babyllm.training.stages.policy.policy_run_config import PolicyRunConfig, completed

SAMPLE_STEPS = 48


@dataclass(frozen=True)
class PpoConfig(PolicyRunConfig):
    """The configuration of `train_ppo.py`."""

    run_dir: PathText = "runs/ppo"
    rollout: RolloutConfig = field(default_factory=lambda: RolloutConfig(group=1, epochs=4))
    reward: RewardConfig = field(default_factory=lambda: RewardConfig(functions={"reward_model": 1.0}))
    loss: PolicyOptions = field(default_factory=lambda: PolicyOptions("ppo", kl=KlConfig("reward")))
    alarms: AlarmConfig = field(default_factory=lambda: AlarmConfig(flat=0.0))
    credit: CreditOptions = field(default_factory=CreditOptions)
    critic: CriticConfig = field(default_factory=CriticConfig)


def resolved(config: PpoConfig) -> PpoConfig:
    """The same configuration with what `completed` adds.

    Raises:
        UserError: there is no such device, or too few of them.
    """
    return completed(config, SAMPLE_STEPS)
