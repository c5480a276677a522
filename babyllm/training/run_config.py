"""The configuration that all training stages share; a stage adds its own sections and defaults."""

from __future__ import annotations

import math
import sys
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from babyllm.config import load
from babyllm.config.values import AnyCount, Count, Epochs, PathText, expand_paths
from babyllm.data.row_config import RowConfig
from babyllm.errors import UserError
from babyllm.evaluate.tasks.task_options import TaskOptions
from babyllm.model.options import ModelOptions
from babyllm.optim.config import OptimConfig
from babyllm.parallel.config import ParallelConfig
from babyllm.run_directory import CONFIG
from babyllm.runtime import RuntimeConfig
from babyllm.runtime.launching.launch import Needs, choose_processes
from babyllm.schedule import Plan
from babyllm.training.watch import WatchConfig


@dataclass(frozen=True)
class RunConfig:
    """The configuration of every training script.

    Attributes:
        run_dir: directory that records the run; the same command resumes it.
        init_from: run, step or Hugging Face directory of the model to start from.
        log_every: steps between records; 0 records only at the end.
        eval_every: steps between evaluations; 0 evaluates only at the end.
        save_every: steps between checkpoints, or epochs if it has a point, such as 1.0; 0 saves only at the end.
        keep: number of newest checkpoints to keep, in addition to the best.
        keep_every: checkpoints that stay in addition: those of each such number of steps; log, those whose step is at
            least twice that of the one before, as studies of training need; 0 for no others.
        early_stop: evaluations in a row without a better result that end the run; 0 never ends it.
        best: result on held-out data by which a step is best, such as all/loss, zh/bpb or xcopa/acc_pmi; a lower loss
            or bpb is better, and a higher value of anything else.
        evaluate: tasks that the model is evaluated on at each evaluation.
        reference_curve: curve drawn in grey in loss.png: auto chooses a built-in one of the same stage and of a model
            of similar size, none draws none; or the name of a built-in curve, a run directory or a metrics.jsonl.
    """

    run_dir: PathText = "runs/run"
    init_from: PathText | None = None
    model: ModelOptions = field(default_factory=ModelOptions)
    data: RowConfig = field(default_factory=RowConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    plan: Plan = field(default_factory=Plan)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    watch: WatchConfig = field(default_factory=WatchConfig)
    log_every: AnyCount = 10
    eval_every: AnyCount = 500
    save_every: AnyCount | Epochs = 250
    keep: Count = 2
    keep_every: AnyCount | Literal["log"] = 0
    early_stop: AnyCount = 0
    best: str = "all/loss"
    evaluate: TaskOptions = field(default_factory=TaskOptions)
    reference_curve: PathText = "auto"

    def __post_init__(self) -> None:
        """Expand `~` in paths."""
        expand_paths(self)


C = TypeVar("C", bound=RunConfig)


def settled(config: C) -> C:
    """The same configuration with its number of processes: the one chosen when the run began, or a new choice.

    Raises:
        UserError: this number of processes cannot work here.
    """
    stored = stored_config(type(config), config.run_dir)
    chosen = stored.runtime.processes if stored is not None else None
    n, remark = choose_processes(config.runtime, config.data.global_batch, chosen, _needs(config.parallel))
    if remark:
        print(f"{config.run_dir}: {remark}", file=sys.stderr)
    return replace(config, runtime=replace(config.runtime, processes=n))


def _needs(parallel: ParallelConfig) -> Needs:
    """What the section `parallel` asks of the number of processes."""
    copies = (parallel.shard_ranks or 1) if parallel.shard == "hybrid" else 1
    sizes = {"tensor": parallel.tensor, "context": parallel.context, "shard_ranks": copies}
    flags = " and ".join(f"parallel.{name}={size}" for name, size in sizes.items() if size > 1)
    return Needs(parallel.tensor * parallel.context, parallel.tensor * math.lcm(parallel.context, copies), flags)


def stored_config(kind: type[C], run_dir: str) -> Any:
    """The configuration stored in a run directory, of type `kind`; None if it is missing or cannot be read."""
    with suppress(UserError):
        if Path(run_dir, CONFIG).is_file():
            return load(kind, Path(run_dir, CONFIG))
    return None
