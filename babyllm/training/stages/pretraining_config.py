"""The configuration of pretraining; reading it loads no torch."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

import yaml

from babyllm.config.values import AnyCount, PathText, Rate
from babyllm.config.yaml_nodes import load_yaml
from babyllm.data.token_config import DataConfig
from babyllm.model.options import CPU_PRESET, GPU_PRESET
from babyllm.optim.config import OptimConfig
from babyllm.run_directory import CONFIG
from babyllm.runtime import device_type
from babyllm.schedule import Plan
from babyllm.training.run_config import RunConfig, settled, stored_config

PREPARED, TOKENS = "data", "tokens"  # in the run directory: what is made from raw texts, and its token data


@dataclass(frozen=True)
class AuxiliaryConfig:
    """What a model also learns to predict, with heads that are not part of the saved model.

    Attributes:
        pos_weight: weight of the loss of a head that predicts the part of speech of each next token, by jieba; 0 trains
            no such head. A run that began without the head cannot begin to train one, but may leave it off later.
    """

    pos_weight: Rate = 0.0


@dataclass(frozen=True)
class PretrainConfig(RunConfig):
    """The configuration of `train_pretrain.py`.

    Attributes:
        init_from: run, step or Hugging Face directory of the weights to start from; null draws new ones.
        aux: auxiliary heads, which train with the model.
        prompts: texts to continue at each evaluation.
    """

    run_dir: PathText = "runs/pretrain"
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(matrices="muon", matrices_lr=2.0, embedding_lr=12.0))
    plan: Plan = field(default_factory=lambda: Plan(epochs=1.5, warmup=0.02, cosine=0, stable=0, decay=0.98))
    aux: AuxiliaryConfig = field(default_factory=AuxiliaryConfig)
    eval_every: AnyCount = 250
    prompts: list[str] = field(default_factory=lambda: ["今天", "这本书", "酒店"])


def resolved(config: PretrainConfig) -> PretrainConfig:
    """The same configuration with the number of processes, and with a preset for the machine if none is chosen.

    Raises:
        UserError: there is no such device, or too few of them.
    """
    config = settled(_as_begun(config))
    if config.model.preset or config.init_from:
        return config
    preset = CPU_PRESET if device_type(config.runtime.device) == "cpu" else GPU_PRESET
    # A run that moves to a machine with another device keeps its model.
    if stored := stored_config(PretrainConfig, config.run_dir):
        preset = stored.model.preset or preset
    return replace(config, model=replace(config.model, preset=preset))


_Section = TypeVar("_Section", Plan, OptimConfig, DataConfig)
BEFORE = PretrainConfig(data=DataConfig(global_batch=8), optim=OptimConfig(), plan=Plan(epochs=1.25))
"""The defaults until there was Muon."""


def _as_begun(config: PretrainConfig) -> PretrainConfig:
    """The same configuration; a run begun with the defaults of `BEFORE` keeps those that the command does not set."""
    stored, written = stored_config(PretrainConfig, config.run_dir), _optim_as_written(config.run_dir)
    if stored is None or written is None:
        return config
    now = PretrainConfig()
    begun = stored.optim if "matrices" in written else OptimConfig(**written)
    return replace(
        config,
        optim=_kept(config.optim, now.optim, begun, BEFORE.optim),
        plan=_kept(config.plan, now.plan, stored.plan, BEFORE.plan),
        data=_kept(config.data, now.data, stored.data, BEFORE.data),
    )


def _kept(section: _Section, now: _Section, begun: _Section, before: _Section) -> _Section:
    """The section with the old default of each value that has the new one, where the run was begun with the old one."""
    changed = [field.name for field in fields(section) if getattr(now, field.name) != getattr(before, field.name)]
    kept = [
        name
        for name in changed
        if getattr(section, name) == getattr(now, name) and getattr(begun, name) == getattr(before, name)
    ]
    return replace(section, **{name: getattr(before, name) for name in kept})


def _optim_as_written(run_dir: str) -> dict[str, Any] | None:
    with suppress(OSError, ValueError, yaml.YAMLError, AttributeError):
        return dict(load_yaml(Path(run_dir, CONFIG).read_text(encoding="utf-8")).get("optim", {}))
    return None
