"""Sums over the held-out rows of a run, which all ranks add up together.

rows -> blocks, shared among ranks -> the model in evaluation mode -> sums of each block -> sums over all ranks
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from babyllm.data.batch import Batch
from babyllm.data.order.shuffle import Rows
from babyllm.training.state import TrainState

BLOCK = 8
"""Rows of a forward pass."""


@torch.no_grad()
def row_sums(
    state: TrainState, rows: Rows, n: int, n_sums: int, sums_of: Callable[[Batch], list[float]]
) -> list[float]:
    """Sums over the first `n` rows, computed as the run trains; every rank must call it.

    Args:
        state: run, whose model is in evaluation mode meanwhile.
        rows: held-out rows.
        n: number of rows that are read.
        n_sums: number of sums.
        sums_of: function that returns the sums of a batch on the device of the run.
    """
    runtime, was_training = state.runtime, state.model.training
    state.model.eval()
    sums = np.zeros(n_sums)
    for start in range(runtime.rank * BLOCK, n, runtime.world_size * BLOCK):
        found = rows.rows(np.arange(start, min(start + BLOCK, n)))
        batch = Batch({name: torch.from_numpy(array) for name, array in found.trimmed(8).items()})
        with runtime.autocast():
            sums += sums_of(batch.to(runtime.device))
        runtime.beat(state.step)
    state.model.train(was_training)
    return runtime.sum(sums.tolist())
