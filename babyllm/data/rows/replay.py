"""Rows of pretraining text among conversations, so that fine-tuning does not forget what the model knew."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from babyllm.data.rows.arrays import RowArrays
from babyllm.data.rows.windows import Windows
from babyllm.model.cross_entropy import IGNORE

REPLAY = "replay"  # the task these rows are logged under, and mixed by


class Replay:
    """Windows of text as if each were a conversation of one turn, all of it supervised.

    Args:
        windows: of the text.
        channel: number of the task they count for.
        by_token: whether losses are averaged over tokens; else a window counts once, like a turn or a conversation.
    """

    def __init__(self, windows: Windows, channel: int, by_token: bool) -> None:
        self._windows, self._channel, self._by_token = windows, channel, by_token

    def __len__(self) -> int:
        """Windows per epoch."""
        return len(self._windows)

    def lengths(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """(n,) inputs of each row."""
        return self._windows.lengths(indices)

    def rows(self, indices: NDArray[np.int64]) -> RowArrays:
        """These rows, with the arrays and units that conversations have."""
        rows = self._windows.rows(indices)
        is_text = rows["targets"] != IGNORE
        lengths = is_text.sum(axis=1)
        ones = np.ones(len(indices), np.int64)
        arrays = {
            "tokens": rows["tokens"],
            "targets": rows["targets"],
            "positions": np.broadcast_to(np.arange(is_text.shape[1]), is_text.shape),
            "documents": np.where(is_text, 0, -1),
            "weights": (is_text / (1 if self._by_token else lengths[:, None])).astype(np.float32),
            "channels": np.full(is_text.shape, self._channel),
        }
        return RowArrays(arrays, lengths, {"turn": ones, "conversation": ones})
