"""The configuration of pretraining; reading it loads no torch."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

import yaml

from babyllm.config.values import AnyCount, PathText
from babyllm.data.token_config import DataConfig
from babyllm.model.options import CPU_PRESET, GPU_PRESET
from babyllm.optim.config import OptimConfig
from babyllm.run_directory import CONFIG
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
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(matrices="muon", matrices_lr=2.0, embedding_lr=12.0))
    plan: Plan = field(default_factory=lambda: Plan(epochs=1.5, warmup=0.02, cosine=0, stable=0, decay=0.98))
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


_Section = TypeVar("_Section", Plan, OptimConfig)


def _as_begun(config: PretrainConfig) -> PretrainConfig:
    """The same configuration; a run begun before there was Muon keeps settings whose defaults have changed since."""
    stored, written = stored_config(PretrainConfig, config.run_dir), _optim_as_written(config.run_dir)
    if stored is None or written is None or "matrices" in written:
        return config
    default, before = PretrainConfig(), OptimConfig(**written)
    batch = stored.data if config.data.global_batch == default.data.global_batch else config.data
    return replace(
        config,
        optim=_kept(config.optim, default.optim, before),
        plan=_kept(config.plan, default.plan, stored.plan),
        data=replace(config.data, global_batch=batch.global_batch),
    )


def _kept(section: _Section, default: _Section, begun: _Section) -> _Section:
    """The section with the run's own values where it has the default."""
    names = [field.name for field in fields(section)]
    return replace(
        section, **{name: getattr(begun, name) for name in names if getattr(section, name) == getattr(default, name)}
    )


def _optim_as_written(run_dir: str) -> dict[str, Any] | None:
    with suppress(OSError, ValueError, yaml.YAMLError, AttributeError):
        return dict(yaml.safe_load(Path(run_dir, CONFIG).read_text(encoding="utf-8")).get("optim", {}))
    return None
