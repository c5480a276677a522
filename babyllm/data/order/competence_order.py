"""The order of a run with a curriculum, from its configuration: the measure, the pace and the ordinary order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from babyllm.data.difficulty.row_difficulty import Measured, difficulty
from babyllm.data.order.competence import Competence, pace_of
from babyllm.data.order.shuffle import Order
from babyllm.data.row_config import CompetenceConfig, RowConfig
from babyllm.errors import UserError
from babyllm.runtime import Runtime
from babyllm.schedule import Plan

__all__ = ["Measured", "by_competence"]


def by_competence(
    config: RowConfig,
    curriculum: CompetenceConfig,
    data: Measured,
    ordinary: Callable[[Sequence[int]], Order],
    runtime: Runtime,
    plan: Plan,
    run_dir: Path | None,
) -> Competence:
    """The rows of a run by their difficulty; every rank must call it.

    Args:
        config: the section `data`.
        curriculum: its section `curriculum`, whose `by` is not None.
        data: the rows, and what else the measures read.
        ordinary: function that returns the order without a curriculum, in which no row crosses the given row numbers.
        runtime: runtime of the run.
        plan: plan with its number of steps.
        run_dir: directory in which the difficulty is stored; None stores nothing.

    Raises:
        UserError: the settings contradict each other or the data.
    """
    if config.is_mixed:
        raise UserError(
            "data.curriculum.by: cannot be combined with data.mix, interleave, concat or stages; leave one of them out"
        )
    pace = pace_of(curriculum, plan.n_steps)
    numbers = difficulty(curriculum, data, config.seed, runtime, run_dir)
    by = str(curriculum.by)
    return Competence(data.rows, ordinary, numbers, pace, by, config.global_batch, config.seed)
