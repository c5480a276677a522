"""What the configurations of stages share in which a model trains on its own answers."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TypeVar

from babyllm.config.values import AnyCount, AnyMembers, Epochs, PathText
from babyllm.data.pair_config import SAMPLE
from babyllm.data.prompt_config import PromptConfig
from babyllm.objectives.policy.policy_options import KlConfig, PolicyOptions
from babyllm.optim.config import OptimConfig
from babyllm.rollouts.rollout_config import AlarmConfig, PtxConfig, RewardConfig, RolloutConfig
from babyllm.schedule import Plan
from babyllm.training.adapted_config import AdaptedRunConfig
from babyllm.training.run_config import settled

REWARD_RUN = "runs/reward"
SAMPLE_LR = 3e-4
SAMPLE_KL = KlConfig("reward", coefficient=0.2, target=10.0)


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
    ptx: PtxConfig = field(default_factory=PtxConfig)
    alarms: AlarmConfig = field(default_factory=AlarmConfig)
    log_every: AnyCount = 1
    eval_every: AnyCount = 50
    save_every: AnyCount | Epochs = 50
    best: str = "all/reward"
    samples: AnyMembers = 3


P = TypeVar("P", bound=PolicyRunConfig)


def completed(config: P, sample_steps: int) -> P:
    """The same configuration with the number of processes and, for the reward model, its run.

    If it names no prompts, it takes the sample prompts and the reward model that the sample pairs have trained. Then
    the number of steps, the learning rate and `loss.kl` are those of the sample where they are left as they are.

    Args:
        config: configuration of a stage.
        sample_steps: number of steps on the sample prompts.

    Raises:
        UserError: there is no such device, or too few of them.
    """
    data, reward, plan, loss = config.data, config.reward, config.plan, config.loss
    if data.path is None:
        default = type(config)()
        data = data.or_sample(SAMPLE, "prompts.jsonl", "heldout_prompts.jsonl")
        reward = replace(reward, functions={"reward_model": 1.0})
        if plan.peak_lr == default.plan.peak_lr:
            plan = replace(plan, peak_lr=SAMPLE_LR)
        if plan.steps is None and plan.epochs == default.plan.epochs:
            plan = replace(plan, steps=sample_steps)
        loss = replace(loss, kl=SAMPLE_KL) if loss.kl == default.loss.kl else loss
    if reward.model is None and "reward_model" in reward.functions:
        reward = replace(reward, model=REWARD_RUN)
    return settled(replace(config, data=data, reward=reward, plan=plan, loss=loss))
