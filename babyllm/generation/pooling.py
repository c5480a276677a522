"""Vectors of texts: the last hidden states of some of a row's tokens, pooled.

rows of ids -> hidden states (B, T, D) after the last norm -> mean, last or largest over the marked tokens -> (B, D)

Legend: B rows of a batch, L ids of a row, T ids of the longest row, D width of the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from babyllm.model.transformer import Transformer

Pooling = Literal["mean", "last", "max"]


class MarkedRow(NamedTuple):
    """A row of token ids, some of which are pooled.

    Attributes:
        ids: (L,) token ids.
        is_pooled: (L,) bool, at least one of them True.
    """

    ids: NDArray[np.integer[Any]]
    is_pooled: NDArray[np.bool_]


@torch.no_grad()
def pooled_hidden(model: Transformer, rows: Sequence[MarkedRow], pooling: Pooling = "mean") -> NDArray[np.float32]:
    """The vectors (B, D) of rows that are read in one forward pass.

    Products have the dtype of the context around it (`babyllm.runtime.precision`); sums are float32.

    Args:
        model: a model in evaluation mode.
        rows: B rows, which are padded to the longest.
        pooling: "mean" of the marked tokens' hidden states, that of the "last" marked token, or their "max" in each
            dimension.
    """
    device = model.embed_tokens.weight.device
    tokens = np.zeros((len(rows), max(len(row.ids) for row in rows)), dtype=np.int64)
    is_pooled = np.zeros(tokens.shape, dtype=np.bool_)
    for line, row in enumerate(rows):
        tokens[line, : len(row.ids)] = row.ids
        is_pooled[line, : len(row.ids)] = row.is_pooled
    hidden = model(torch.from_numpy(tokens).to(device), returns=("hidden",))["hidden"].float()
    found: NDArray[np.float32] = _pooled(hidden, is_pooled, pooling).cpu().numpy()
    return found


def _pooled(hidden: Tensor, is_pooled: NDArray[np.bool_], pooling: Pooling) -> Tensor:
    if pooling == "last":
        last = is_pooled.shape[1] - 1 - is_pooled[:, ::-1].argmax(1)
        return hidden[torch.arange(len(hidden)), torch.from_numpy(last.copy())]
    if pooling == "max":
        return hidden.masked_fill(~torch.from_numpy(is_pooled).to(hidden.device)[..., None], -torch.inf).amax(1)
    shares = is_pooled.astype(np.float32) / is_pooled.sum(1, keepdims=True, dtype=np.float32)
    return torch.einsum("bt,btd->bd", torch.from_numpy(shares).to(hidden.device), hidden)
