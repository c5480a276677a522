"""The loss of a model on whole training rows, by which a curriculum orders them.

rows -> blocks of adjacent rows, each of one rank -> forward pass -> mean nats of each row's targets -> sum over ranks
"""

from __future__ import annotations

import numpy as np
import torch

from babyllm.data.order.shuffle import Rows
from babyllm.evaluate.scoring import BATCH_TOKENS, evaluating
from babyllm.model.cross_entropy import IGNORE
from babyllm.model.transformer import Transformer
from babyllm.progress import ProgressLine
from babyllm.runtime import Runtime

SUMMED_ROWS = 1 << 20
SHOWN_BLOCKS = 32  # more than these take long enough for a progress line


@torch.no_grad()
def row_losses(
    model: Transformer, data: Rows, runtime: Runtime, seq_len: int, in_documents: bool, step: int = 0
) -> torch.Tensor:
    """The mean loss of each row; every rank must call it and gets the same numbers.

    A block holds the same rows for every number of ranks, so that equal weights have equal losses.

    Args:
        model: model that reads the rows; it is in evaluation mode meanwhile.
        data: rows of `seq_len` columns.
        runtime: device, dtype and ranks.
        seq_len: inputs per row.
        in_documents: whether a token sees only its own document or conversation.
        step: number of the step, reported to the watchdog.

    Returns:
        (len(data),) float32 on the CPU, in nats per target; 0 for a row without targets.
    """
    per_block = max(1, BATCH_TOKENS // seq_len)
    line = ProgressLine("rows scored", len(data)) if runtime.is_main and len(data) > SHOWN_BLOCKS * per_block else None
    total = np.zeros(len(data))
    with evaluating(model):
        for first in range(runtime.rank * per_block, len(data), runtime.world_size * per_block):
            numbers = np.arange(first, min(first + per_block, len(data)))
            arrays = data.rows(numbers).trimmed(8)
            tensors = {name: torch.from_numpy(array).to(runtime.device) for name, array in arrays.items()}
            where = (tensors["positions"], tensors["documents"]) if in_documents else ()
            is_target = tensors["targets"] != IGNORE
            n_targets = int((arrays["targets"] != IGNORE).sum())
            with runtime.autocast():
                nats = model(tensors["tokens"], tensors["targets"], *where, n_targets=n_targets)
            means = nats.float().sum(dim=1) / is_target.sum(dim=1).clamp_min(1)
            total[numbers] = means.cpu().numpy()
            runtime.beat(step)
            if line:
                line.show(int(numbers[-1]) + 1)
    if line:
        line.end()
    parts = [total[first : first + SUMMED_ROWS] for first in range(0, len(total), SUMMED_ROWS)]
    return torch.tensor([value for part in parts for value in runtime.sum(part.tolist())], dtype=torch.float32)
