"""Rows of pairs: the chosen and the rejected answer to a prompt; and of single answers with verdicts.

PairStore -> Pairs -> tokens, targets (n, 2, T), margins, numbers
          -> Answers -> tokens, targets (n, T), desirable, numbers
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from babyllm.data.rows.arrays import RowArrays
from babyllm.data.rows.conversations import require_length
from babyllm.ragged import offsets_of, positions
from babyllm.store.conversations import ConversationStore
from babyllm.store.pair_store import PairStore
from babyllm.store.shards import Split


class _Spans:
    """Rows of a span of a store: of a split, or of one task in it.

    Args:
        store: the pairs or answers.
        split: "train" or "val".
        task: name of one task; None takes all.
        seq_len: columns of a row.

    Raises:
        UserError: there are none, or one is longer than a row.
    """

    def __init__(self, store: PairStore, split: Split, task: str | None, seq_len: int) -> None:
        self._store, self._seq_len = store, seq_len
        self._span, self._first = store.span(split, task), store.span(split).start
        require_length(store.chats, split, task, seq_len)

    def __len__(self) -> int:
        """The number of pairs or answers, one in each row."""
        return len(self._span)


class Pairs(_Spans):
    """Rows of one pair each; its sides are padded at the end."""

    def lengths(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """(n,) int64, the inputs of the longer side of each row, for (n,) indices."""
        longer: NDArray[np.int64] = self._sides(indices).max(axis=1)
        return longer

    def rows(self, indices: NDArray[np.int64]) -> RowArrays:
        """The rows with these (n,) int64 indices.

        Returns:
            "tokens" and "targets", (n, 2, seq_len) int64 with the chosen side first; the targets are the tokens of the
            last answer, its end token included, and `IGNORE` elsewhere. "margins", (n, 1) float32, how much better the
            chosen answer is; 0 where the data does not say. "numbers", (n, 1) int64, each pair's number in its split.
            The lengths are (n, 2). The unit is "pair".
        """
        numbers = indices + self._span.start
        chats = 2 * numbers[:, None] + np.arange(2)
        arrays = _filled(self._store.chats, chats.ravel(), self._seq_len)
        shaped: dict[str, NDArray[Any]] = {
            name: array.reshape(len(indices), 2, self._seq_len) for name, array in arrays.items()
        }
        shaped["margins"] = np.nan_to_num(self._store.labels["margin"][numbers, None])
        shaped["numbers"] = (numbers - self._first)[:, None]
        return RowArrays(shaped, self._sides(indices), {"pair": np.ones(len(indices), np.int64)})

    def _sides(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """(n, 2) int64, the inputs of both sides of each row."""
        chats = 2 * (indices + self._span.start)[:, None] + np.arange(2)
        lengths: NDArray[np.int64] = self._store.chats.index["length"][chats].astype(np.int64) - 1
        return lengths


class Answers(_Spans):
    """Rows of one answer with a verdict each, padded at the end."""

    def lengths(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """(n,) int64, the inputs of each row that are not padding, for (n,) indices."""
        lengths: NDArray[np.int64] = self._store.chats.index["length"][indices + self._span.start].astype(np.int64) - 1
        return lengths

    def rows(self, indices: NDArray[np.int64]) -> RowArrays:
        """The rows with these (n,) int64 indices.

        Returns:
            "tokens" and "targets", (n, seq_len) int64; the targets are the tokens of the last answer, its end token
            included, and `IGNORE` elsewhere. "desirable", (n, 1) float32, 1 for a good answer and 0 for a bad one.
            "numbers", (n, 1) int64, each answer's number in its split. The unit is "answer".
        """
        numbers = indices + self._span.start
        arrays = _filled(self._store.chats, numbers, self._seq_len)
        arrays["desirable"] = self._store.labels["desirable"][numbers, None].astype(np.float32)
        arrays["numbers"] = (numbers - self._first)[:, None]
        return RowArrays(arrays, self.lengths(indices), {"answer": np.ones(len(indices), np.int64)})


def _filled(store: ConversationStore, chats: NDArray[np.int64], seq_len: int) -> dict[str, NDArray[Any]]:
    """The "tokens" and "targets", (n, seq_len) int64, of (n,) conversations."""
    from babyllm.model.cross_entropy import IGNORE  # imported here: processes that prepare a store need no torch

    record = store.index[chats]
    offsets = offsets_of(record["length"].astype(np.int64) - 1)
    chat, position = np.repeat(np.arange(len(chats)), np.diff(offsets)), positions(offsets)
    source = record["offset"][chat] + position
    tokens = np.full((len(chats), seq_len), store.manifest.eos_id, np.int64)
    targets = np.full((len(chats), seq_len), IGNORE, np.int64)
    tokens[chat, position] = store.ids[source]
    targets[chat, position] = np.where(store.turns[source + 1] > 0, store.ids[source + 1].astype(np.int64), IGNORE)
    return {"tokens": tokens, "targets": targets}
