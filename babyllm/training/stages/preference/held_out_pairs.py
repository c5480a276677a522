"""The held-out pairs of a run, scored by all ranks together.

rows -> blocks of pairs, shared among ranks -> scores of both sides -> sums -> results by name
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from babyllm.data.batch import Batch
from babyllm.data.order.shuffle import Rows
from babyllm.evaluate.preferences import pair_results, pair_sums
from babyllm.model.cross_entropy import IGNORE
from babyllm.training.state import TrainState

BLOCK = 8
"""Pairs of a forward pass."""


@torch.no_grad()
def scored_pairs(state: TrainState, rows: Rows, n: int, scores: Callable[[Batch], Tensor]) -> dict[str, float]:
    """The results of the first `n` pairs (`pair_results`), by "all/" and their names; every rank must call it.

    Args:
        state: run, whose model is in evaluation mode meanwhile.
        rows: rows of pairs.
        n: number of pairs, at least 1.
        scores: function that returns the scores (B, 2) of the two sides of a batch, the chosen one first.
    """
    runtime, was_training = state.runtime, state.model.training
    state.model.eval()
    sums = np.zeros(len(pair_sums(np.zeros((1, 2)), np.ones((1, 2), np.int64))))
    for start in range(runtime.rank * BLOCK, n, runtime.world_size * BLOCK):
        found = rows.rows(np.arange(start, min(start + BLOCK, n)))
        batch = Batch({name: torch.from_numpy(array) for name, array in found.trimmed(8).items()})
        with runtime.autocast():
            of_batch = scores(batch.to(runtime.device))
        sums += pair_sums(of_batch.double().cpu().numpy(), (found["targets"] != IGNORE).sum(-1))
        runtime.beat(state.step)
    state.model.train(was_training)
    return {f"all/{name}": value for name, value in pair_results(runtime.sum(sums.tolist())).items()}
