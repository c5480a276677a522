"""The weights of data sets as a mixture of tasks.

A chat of a data set of weight w comes w times where one of weight 1 comes once. A task then has a part of the rows in
proportion to its weight times its rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from babyllm.data.row_config import RowConfig
from babyllm.errors import UserError
from babyllm.store.data_sets import read_data_sets, weights_by_task

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
