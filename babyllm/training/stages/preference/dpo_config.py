"""The configuration of direct preference optimisation."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from babyllm.config.values import AnyCount, Epochs, PathText
from babyllm.data.pair_config import SAMPLE, PairConfig
from babyllm.objectives.preference.preference_options import PreferenceOptions
from babyllm.optim.config import OptimConfig
from babyllm.schedule import Plan
from babyllm.training.adapted_config import AdaptedRunConfig
from babyllm.training.run_config import settled
from babyllm.training.stages.as_begun import as_begun


@dataclass(frozen=True)
class DpoConfig(AdaptedRunConfig):
    """The configuration of `train_dpo.py`.

    Attributes:
        loss: loss of a pair of answers.
        reference: source of the reference's log-probabilities: computed once with the starting model and kept beside
            the pairs (stored), or computed in each step with the adapter switched off (adapter_off), which needs LoRA.
    """

    run_dir: PathText = "runs/dpo"
    init_from: PathText = "runs/sft"
    data: PairConfig = field(default_factory=PairConfig)
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(weight_decay=0.0))
    plan: Plan = field(default_factory=lambda: Plan(epochs=1, peak_lr=2e-4))
    eval_every: AnyCount = 100
    save_every: AnyCount | Epochs = 100
    loss: PreferenceOptions = field(default_factory=PreferenceOptions)
    reference: Literal["stored", "adapter_off"] = "stored"


def resolved(config: DpoConfig) -> DpoConfig:
    """The same configuration with the number of processes, and with the sample pairs if it names no data.

    Raises:
        UserError: there is no such device, or too few of them.
    """
    return settled(replace(config, data=as_begun(config.run_dir, config.data).or_sample(SAMPLE)))
