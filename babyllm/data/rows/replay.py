"""Rows of pretraining text among conversations, so that a model forgets less of it in fine-tuning."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from babyllm.data.rows.arrays import RowArrays
from babyllm.data.rows.windows import Windows
from babyllm.model.cross_entropy import IGNORE

REPLAY = "replay"  # the task name under which these rows are mixed and logged


class Replay:
    """Windows of text, each like a conversation of one supervised turn.

    Args:
        windows: windows over the text.
        channel: index of the task "replay".
        by_token: whether losses are averaged over tokens; otherwise a window counts as one turn or conversation.
    """

    def __init__(self, windows: Windows, channel: int, by_token: bool) -> None:
        self._windows, self._channel, self._by_token = windows, channel, by_token

    def __len__(self) -> int:
        """The number of windows per epoch."""
        return len(self._windows)

    def lengths(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """(n,) int64, the inputs of each row that are not padding, for (n,) indices."""
        return self._windows.lengths(indices)

    def rows(self, indices: NDArray[np.int64]) -> RowArrays:
        """The rows with these (n,) int64 indices, with the arrays and units of `Conversations.rows`."""
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
