"""The configuration of stages that start from a trained model: fine-tuning, and all stages after it."""

from __future__ import annotations

from dataclasses import dataclass, field

from babyllm.config.values import PathText
from babyllm.model.adapt.freezing import FreezeConfig
from babyllm.model.adapt.lora import LoraConfig
from babyllm.training.run_config import RunConfig


@dataclass(frozen=True)
class AdaptedRunConfig(RunConfig):
    """The configuration of a stage that changes a trained model.

    Attributes:
        init_from: run, step or Hugging Face directory of the model to start from.
        model: what may differ from the model in init_from: n_layers (the first ones are kept), max_seq_len,
            rope_scaling with rope_factor, rope_theta, norm_eps, dropout and activation_checkpointing.
    """

    init_from: PathText = "runs/pretrain"
    lora: LoraConfig = field(default_factory=LoraConfig)
    freeze: FreezeConfig = field(default_factory=FreezeConfig)
