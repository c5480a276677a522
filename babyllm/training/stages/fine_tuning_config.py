"""The configuration of supervised fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from babyllm.config.values import AnyCount, AnyMembers, Epochs, PathText
from babyllm.data.conversation_config import SAMPLE, ConversationConfig
from babyllm.optim.config import OptimConfig
from babyllm.schedule import Plan
from babyllm.store.conversations import LossAverage
from babyllm.training.adapted_config import AdaptedRunConfig
from babyllm.training.run_config import settled
from babyllm.training.stages.as_begun import as_begun


@dataclass(frozen=True)
class FineTuneConfig(AdaptedRunConfig):
    """The configuration of `train_sft.py`.

    Attributes:
        normalise: unit that the loss is the mean over: token, turn (each answer counts once, so that long ones do not
            outweigh short ones) or conversation.
        samples: number of held-out conversations whose last answer is shown at each evaluation.
    """

    run_dir: PathText = "runs/sft"
    data: ConversationConfig = field(default_factory=ConversationConfig)
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(weight_decay=0.0))
    plan: Plan = field(default_factory=lambda: Plan(epochs=1.5, peak_lr=2e-3))
    eval_every: AnyCount = 200
    save_every: AnyCount | Epochs = 200
    normalise: LossAverage = "turn"
    samples: AnyMembers = 3


def resolved(config: FineTuneConfig) -> FineTuneConfig:
    """The same configuration with the number of processes, and with the sample set if it names no conversations.

    Raises:
        UserError: there is no such device, or too few of them.
    """
    return settled(replace(config, data=as_begun(config.run_dir, config.data).or_sample(SAMPLE)))
