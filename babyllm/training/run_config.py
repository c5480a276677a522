"""The configuration that all stages of training share: a stage adds its own sections and defaults."""

from __future__ import annotations

from dataclasses import dataclass, field

from babyllm.config.values import AnyCount, Count, PathText, expand_paths
from babyllm.data.row_config import RowConfig
from babyllm.model.config import ModelOptions
from babyllm.optim import OptimConfig
from babyllm.runtime import RuntimeConfig
from babyllm.schedule import Plan
from babyllm.training.watch import WatchConfig


@dataclass(frozen=True)
class RunConfig:
    """What every training script has.

    Attributes:
        run_dir: where the run is recorded; the same command goes on with it.
        init_from: a run, step or Hugging Face directory of the model to start from.
        log_every: steps between records; 0 only at the end.
        eval_every: steps between evaluations; 0 only at the end.
        save_every: steps between checkpoints; 0 only at the end.
        keep: newest checkpoints that stay, besides the best.
        early_stop: evaluations without a lower held-out loss that end the run; 0 never does.
    """

    run_dir: PathText = "runs/run"
    init_from: PathText | None = None
    model: ModelOptions = field(default_factory=ModelOptions)
    data: RowConfig = field(default_factory=RowConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    plan: Plan = field(default_factory=Plan)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    watch: WatchConfig = field(default_factory=WatchConfig)
    log_every: AnyCount = 10
    eval_every: AnyCount = 500
    save_every: AnyCount = 250
    keep: Count = 2
    early_stop: AnyCount = 0

    def __post_init__(self) -> None:
        """Expand `~` in paths."""
        expand_paths(self)
