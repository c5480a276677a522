"""Rows of conversations: one in each, or several packed that do not attend to each other.

ConversationStore -> Conversations | PackedConversations -> tokens, targets, weights, ...
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from babyllm.data.rows.arrays import RowArrays
from babyllm.data.rows.packing import pack
from babyllm.errors import UserError
from babyllm.ragged import Ragged, offsets_of, positions, take
from babyllm.store.conversations import ConversationStore, LossAverage
from babyllm.store.shards import Split


class Conversations:
    """Rows of one conversation each, padded at the end.

    Args:
        store: the conversations.
        split: "train" or "val".
        task: name of one task; None takes all.
        seq_len: columns of a row.
        normalisation: unit over which the weights of targets add up to 1: each token, each supervised turn, or each
            conversation.

    Raises:
        UserError: there are no conversations, or one is longer than a row.
    """

    def __init__(
        self,
        store: ConversationStore,
        split: Split,
        task: str | None,
        seq_len: int,
        normalisation: LossAverage = "token",
    ) -> None:
        self._store, self._seq_len, self._normalisation = store, seq_len, normalisation
        self._span = store.span(split, task)
        require_length(store, split, task, seq_len)

    def __len__(self) -> int:
        """The number of conversations, one in each row."""
        return len(self._span)

    def lengths(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """(n,) int64, the inputs of each row that are not padding, for (n,) indices."""
        return self._store.index["length"][indices + self._span.start].astype(np.int64) - 1

    def rows(self, indices: NDArray[np.int64]) -> RowArrays:
        """The rows with these (n,) int64 indices.

        Returns:
            Arrays of (n, seq_len): "tokens", "targets", "positions", "documents" (0 for the conversation, -1 for
            padding), "channels" (the index in the store's tasks), all int64, and "weights" (float32, the factor of a
            target's nats). Units are "turn" and "conversation".
        """
        members = Ragged(indices + self._span.start, np.arange(len(indices) + 1))
        return _columns(self._store, members, self._seq_len, self._normalisation)


class PackedConversations:
    """Rows of several conversations, which do not attend to each other.

    Args:
        store: the conversations.
        split: "train" or "val".
        task: name of one task; None takes all.
        seq_len: columns of a row.
        normalisation: unit over which weights add up to 1, as in `Conversations`.
        seed: seed of the choice which conversations share a row.

    Raises:
        UserError: there are no conversations, or one is longer than a row.
    """

    def __init__(
        self,
        store: ConversationStore,
        split: Split,
        task: str | None,
        seq_len: int,
        normalisation: LossAverage = "token",
        seed: int = 1,
    ) -> None:
        self._store, self._seq_len, self._normalisation = store, seq_len, normalisation
        require_length(store, split, task, seq_len)
        packed = pack(store.lengths(split, task), seq_len, seed)
        self._members = Ragged(packed.values + store.span(split, task).start, packed.offsets)

    def __len__(self) -> int:
        """The number of rows."""
        return len(self._members.offsets) - 1

    def lengths(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """(n,) int64, the inputs of each row that are not padding, for (n,) indices."""
        members = take(self._members, indices)
        inputs = self._store.index["length"][members.values].astype(np.int64) - 1
        return np.add.reduceat(inputs, members.offsets[:-1]) if len(indices) else inputs

    def rows(self, indices: NDArray[np.int64]) -> RowArrays:
        """The rows with these (n,) int64 indices.

        Returns:
            The arrays and units of `Conversations`. Positions restart with each conversation of a row; "documents"
            numbers its conversations from 0.
        """
        return _columns(self._store, take(self._members, indices), self._seq_len, self._normalisation)


def require_length(store: ConversationStore, split: Split, task: str | None, seq_len: int) -> None:
    """Refuse a row length that is too short for a conversation.

    Raises:
        UserError: the longest conversation has more inputs than `seq_len`.
    """
    longest = max((group.longest for group in store.groups(split, task)), default=0) - 1
    if longest > seq_len:
        raise UserError(
            f"data.seq_len={seq_len}: {store.directory} holds conversations of up to {longest} tokens; use the "
            "seq_len they were prepared for, or prepare them for this one"
        )


def _columns(store: ConversationStore, rows: Ragged, seq_len: int, normalisation: LossAverage) -> RowArrays:
    """The rows of (rows, members) conversations; N members and P inputs in all."""
    from babyllm.model.cross_entropy import IGNORE  # imported here: processes that prepare a store need no torch

    n, shape = len(rows.offsets) - 1, (len(rows.offsets) - 1, seq_len)
    record = store.index[rows.values]  # (N,)
    row = np.repeat(np.arange(n), rows.lengths())  # (N,)
    offsets = offsets_of(record["length"].astype(np.int64) - 1)
    begins = offsets[:-1] - offsets[rows.offsets[row]]  # (N,) the column at which a member begins
    member = np.repeat(np.arange(len(record)), np.diff(offsets))  # (P,)
    position = positions(offsets)  # (P,)
    source = record["offset"][member] + position
    cell = (row * seq_len + begins)[member] + position
    turns = store.turns[source + 1].astype(np.int64)

    def filled(values: NDArray[Any], empty: float, dtype: Any = np.int64) -> NDArray[Any]:
        out = np.full(n * seq_len, empty, dtype)
        out[cell] = values
        return out.reshape(shape)

    weights = _weights(turns, member, record["supervised"], normalisation)
    arrays = {
        "tokens": filled(store.ids[source], store.manifest.eos_id),
        "targets": filled(np.where(turns > 0, store.ids[source + 1].astype(np.int64), IGNORE), IGNORE),
        "positions": filled(position, 0),
        "documents": filled(positions(rows.offsets)[member], -1),
        "weights": filled(weights, 0, np.float32),
        "channels": filled(store.channels(rows.values)[member], 0),
    }
    units = {"turn": np.bincount(row, record["turns"], n).astype(np.int64), "conversation": rows.lengths()}
    return RowArrays(arrays, np.diff(offsets[rows.offsets]), units)


def _weights(
    turns: NDArray[np.int64], member: NDArray[np.int64], supervised: NDArray[Any], normalisation: LossAverage
) -> NDArray[Any]:
    """(P,) float64, the factor of each target's nats; 0 where it is not supervised."""
    share: NDArray[Any] = np.ones(len(turns))
    if normalisation == "conversation":
        share = 1 / supervised[member]
    elif normalisation == "turn":
        of_turn = member * (turns.max(initial=0) + 1) + turns
        share = 1 / np.bincount(of_turn)[of_turn]
    return np.where(turns > 0, share, 0)
