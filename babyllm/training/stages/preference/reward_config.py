"""The configuration of reward models."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from babyllm.config.values import AnyCount, Epochs, PathText, expand_paths
from babyllm.data.pair_config import SAMPLE, PairConfig
from babyllm.objectives.bradley_terry import RewardOptions
from babyllm.optim.config import OptimConfig
from babyllm.schedule import Plan
from babyllm.training.adapted_config import AdaptedRunConfig
from babyllm.training.run_config import settled
from babyllm.training.stages.as_begun import as_begun


@dataclass(frozen=True)
class RewardConfig(AdaptedRunConfig):
    """The configuration of `train_reward.py`.

    Attributes:
        loss: loss by which the scores of two answers are compared.
        reference_set: file or folder of conversations, such as those that the policy was fine-tuned on. At each
            evaluation the mean and spread of the scores of their last answers are measured, and the scores that rewards
            take from that step are relative to them (Ouyang et al. 2022, section 3.5). null leaves scores as they are.
    """

    run_dir: PathText = "runs/reward"
    init_from: PathText = "runs/sft"
    data: PairConfig = field(default_factory=PairConfig)
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(weight_decay=0.0))
    plan: Plan = field(default_factory=lambda: Plan(epochs=1, peak_lr=1e-3))
    eval_every: AnyCount = 200
    save_every: AnyCount | Epochs = 200
    best: str = "all/loss"
    loss: RewardOptions = field(default_factory=RewardOptions)
    reference_set: PathText | None = None

    def __post_init__(self) -> None:
        """Expand `~` in paths."""
        super().__post_init__()
        expand_paths(self)


def resolved(config: RewardConfig) -> RewardConfig:
    """The same configuration with the number of processes, and with the sample pairs if it names no data.

    Raises:
        UserError: there is no such device, or too few of them.
    """
    return settled(replace(config, data=as_begun(config.run_dir, config.data).or_sample(SAMPLE)))
