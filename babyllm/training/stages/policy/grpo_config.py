"""The configuration of group-relative policy optimisation."""

from __future__ import annotations

from dataclasses import dataclass

from babyllm.config.values import PathText
from babyllm.objectives.policy.advantages import Scale
from babyllm.training.stages.policy.policy_run_config import PolicyRunConfig, completed

SAMPLE_STEPS = 20


@dataclass(frozen=True)
class GrpoConfig(PolicyRunConfig):
    """The configuration of `train_grpo.py`.

    Attributes:
        scale: what rewards are divided by after the mean of their group is taken off: the spread of their group, that
            of all answers of the rollout (batch), or none. The loss reinforce takes off the mean of the other answers
            instead, and divides by nothing.
    """

    run_dir: PathText = "runs/grpo"
    scale: Scale = "group"


def resolved(config: GrpoConfig) -> GrpoConfig:
    """The same configuration with what `completed` adds.

    Raises:
        UserError: there is no such device, or too few of them.
    """
    return completed(config, SAMPLE_STEPS)
