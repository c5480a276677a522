"""The configuration of pretraining; reading it loads no torch."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from babyllm.config.values import PathText
from babyllm.data.token_config import DataConfig
from babyllm.model.options import CPU_PRESET, GPU_PRESET
from babyllm.runtime import device_type
from babyllm.schedule import Plan
from babyllm.training.run_config import RunConfig, settled, stored_config

PREPARED, TOKENS = "data", "tokens"  # in the run directory: what is made from raw texts, and its token data


@dataclass(frozen=True)
class PretrainConfig(RunConfig):
    """The configuration of `train_pretrain.py`.

    Attributes:
        init_from: run, step or Hugging Face directory of the weights to start from; null draws new ones.
        prompts: texts to continue at each evaluation.
    """

    run_dir: PathText = "runs/pretrain"
    data: DataConfig = field(default_factory=DataConfig)
    plan: Plan = field(default_factory=lambda: Plan(epochs=1.25))
    prompts: list[str] = field(default_factory=lambda: ["今天", "这本书", "酒店"])


def resolved(config: PretrainConfig) -> PretrainConfig:
    """The same configuration with the number of processes, and with a preset for the machine if none is chosen.

    Raises:
        UserError: there is no such device, or too few of them.
    """
    config = settled(config)
    if config.model.preset or config.init_from:
        return config
    preset = CPU_PRESET if device_type(config.runtime.device) == "cpu" else GPU_PRESET
    # A run that moves to a machine with another device keeps its model.
    if stored := stored_config(PretrainConfig, config.run_dir):
        preset = stored.model.preset or preset
    return replace(config, model=replace(config.model, preset=preset))
