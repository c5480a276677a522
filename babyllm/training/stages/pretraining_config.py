"""The configuration of pretraining; reading it loads no torch."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from babyllm.config.values import PathText
from babyllm.data.token_config import DataConfig
from babyllm.model.options import CPU_PRESET, GPU_PRESET
from babyllm.runtime import device_type
from babyllm.schedule import Plan
from babyllm.training.run_config import RunConfig, settled, stored_config

PREPARED, TOKENS = "data", "tokens"  # in the run directory: what is made of raw texts, and the token data in it


@dataclass(frozen=True)
class PretrainConfig(RunConfig):
    """The configuration of `train_pretrain.py`.

    Attributes:
        init_from: a run, step or Hugging Face directory whose weights to start from; null draws new ones.
        prompts: texts to continue at each evaluation.
    """

    run_dir: PathText = "runs/pretrain"
    data: DataConfig = field(default_factory=DataConfig)
    plan: Plan = field(default_factory=lambda: Plan(epochs=1.25))
    prompts: list[str] = field(default_factory=lambda: ["今天", "这本书", "酒店"])


def resolved(config: PretrainConfig) -> PretrainConfig:
    """The same configuration with what depends on the machine and the run: a preset where none is chosen, processes.

    Raises:
        UserError: there is no such device, or not so many.
    """
    config = settled(config)
    if config.model.preset or config.init_from:
        return config
    preset = CPU_PRESET if device_type(config.runtime.device) == "cpu" else GPU_PRESET
    # A run that is moved to a machine with another device keeps its model.
    if stored := stored_config(PretrainConfig, config.run_dir):
        preset = stored.model.preset or preset
    return replace(config, model=replace(config.model, preset=preset))
