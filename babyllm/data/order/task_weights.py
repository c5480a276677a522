"""Weights of data sets, and of groups of tasks, as weights of tasks.

A chat of a data set of weight w comes w times where one of weight 1 comes once. A task then has a part of the rows in
proportion to its weight times its rows. The weight of a group is divided among its tasks in proportion to their rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from babyllm.data.row_config import RowConfig
from babyllm.errors import UserError
from babyllm.store.data_sets import read_data_sets, weights_by_task
from babyllm.store.task_groups import groups_of

C = TypeVar("C", bound=RowConfig)


def weighted(config: C, store: Path, rows: Callable[[str], int]) -> C:
    """The section `data` with the mixture that the weights of data sets ask for; the same one if they are all equal.

    Args:
        config: section `data`.
        store: directory of the prepared chats.
        rows: function that returns the number of rows of a task.

    Raises:
        UserError: data sets with different weights have a task in common, or a mixture is configured too.
    """
    weights = weights_by_task(read_data_sets(store))
    if not weights:
        return config
    if config.is_mixed:
        raise UserError(
            "data.mix, interleave, concat and stages: say how much there is of each task, and so do the weights of the "
            "data sets in the registry; leave out one of them"
        )
    return replace(config, mix={task: weight * rows(task) for task, weight in sorted(weights.items())})


def without_groups(config: C, amounts: Mapping[str, int]) -> C:
    """The section `data` with tasks in place of the groups that `mix` and `stages` name.

    Args:
        config: section `data`.
        amounts: rows of each task.

    Raises:
        UserError: a mixture names a group and one of its tasks.
    """
    groups = groups_of(amounts)
    mix, stages = config.mix, config.stages
    if mix is not None:
        mix = _divided(mix, groups, amounts, "data.mix")
    if stages is not None:
        stages = [_stage(stage, groups, amounts, f"data.stages, number {n}") for n, stage in enumerate(stages, 1)]
    return replace(config, mix=mix, stages=stages)


def _stage(stage: Mapping[str, Any], groups: Mapping[str, list[str]], amounts: Mapping[str, int], where: str) -> Any:
    if not isinstance(stage.get("mix"), Mapping):
        return stage
    return {**stage, "mix": _divided(stage["mix"], groups, amounts, where)}


def _divided(
    mix: Mapping[str, float], groups: Mapping[str, list[str]], amounts: Mapping[str, int], where: str
) -> dict[str, float]:
    """The weights of a mixture with those of groups divided among their tasks."""
    weights: dict[str, float] = {}
    for name, weight in mix.items():
        if name not in groups:
            weights[name] = weight
            continue
        tasks = groups[name]
        if twice := next((task for task in tasks if task in mix and task != name), None):
            raise UserError(f"{where}: names the task '{twice}' and its group '{name}'; leave one of them out")
        total = sum(amounts[task] for task in tasks)
        weights |= {task: weight * amounts[task] / total for task in tasks}
    return weights
