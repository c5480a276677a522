"""The configuration of stages that start from a finished model: fine-tuning, and all that follow it."""

from __future__ import annotations

from dataclasses import dataclass, field

from babyllm.config.values import PathText
from babyllm.model.adapt.freezing import FreezeConfig
from babyllm.model.adapt.lora import LoraConfig
from babyllm.training.run_config import RunConfig


@dataclass(frozen=True)
class AdaptedRunConfig(RunConfig):
    """What a stage has that changes a finished model.

    Attributes:
        init_from: a run, step or Hugging Face directory of the model to start from.
        model: dropout and activation_checkpointing; the shape is that of init_from.
    """

    init_from: PathText = "runs/pretrain"
    lora: LoraConfig = field(default_factory=LoraConfig)
    freeze: FreezeConfig = field(default_factory=FreezeConfig)
