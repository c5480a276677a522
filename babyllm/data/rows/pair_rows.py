"""Rows of pairs: the chosen and the rejected answer to a prompt; and of single answers with verdicts.

PairStore -> Pairs -> tokens, targets (n, 2, T), margins, numbers
          -> Answers -> tokens, targets (n, T), desirable, numbers
          -> Mismatched -> the same with a second side (n, 2, T): the answer to another prompt, after this one
"""

from __future__ import annotations

from hashlib import sha256
from typing import Any

import numpy as np
from numpy.typing import NDArray

from babyllm.data.rows.arrays import RowArrays
from babyllm.data.rows.conversations import require_length
from babyllm.errors import UserError
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
        arrays = _filled(self._store.chats, *_places(self._store.chats, chats.ravel()), self._seq_len)
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
        arrays = _filled(self._store.chats, *_places(self._store.chats, numbers), self._seq_len)
        arrays["desirable"] = self._store.labels["desirable"][numbers, None].astype(np.float32)
        arrays["numbers"] = (numbers - self._first)[:, None]
        return RowArrays(arrays, self.lengths(indices), {"answer": np.ones(len(indices), np.int64)})


class Mismatched(Answers):
    """Rows of one answer with a verdict each, and beside it an answer to another prompt as if it were to this one.

    The other answer depends on the split alone. The answers lie in a circle, in the order of the store, those to one
    prompt side by side. The other answer is k places on, where k is the most answers that any prompt has. So it is
    never to the same prompt, and each answer is the other one of exactly one row. Its end is cut where it would make
    the row longer than the longest record of the row's task.

    Raises:
        UserError: more than half of the answers are to one prompt.
    """

    def __init__(self, store: PairStore, split: Split, task: str | None, seq_len: int) -> None:
        super().__init__(store, split, task, seq_len)
        chats, whole = store.chats, store.span(split)
        self._prompts = _prompt_lengths(chats, whole)
        self._others = _other_answers(chats, whole, self._prompts)
        groups = chats.groups(split)
        longest = np.repeat([group.longest for group in groups], [group.conversations for group in groups])
        lengths = chats.index["length"][whole.start : whole.stop].astype(np.int64)
        answers = (lengths - self._prompts)[self._others]
        self._lengths = np.minimum(self._prompts + answers, longest)

    def lengths(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """(n,) int64, the inputs of the longer side of each row, for (n,) indices."""
        longer: NDArray[np.int64] = self._sides(indices).max(axis=1)
        return longer

    def rows(self, indices: NDArray[np.int64]) -> RowArrays:
        """The rows with these (n,) int64 indices.

        Returns:
            The arrays and units of `Answers`, but "tokens" and "targets" are (n, 2, seq_len), the record's own answer
            first, and the lengths (n, 2).
        """
        own, store = super().rows(indices), self._store.chats
        mine = indices + self._span.start - self._first
        offsets, position, row = _flat(self._lengths[mine])
        prompts, others = self._prompts[mine], self._others[mine]
        answer_at = store.index["offset"][others + self._first] + self._prompts[others]
        prompt_at = store.index["offset"][mine + self._first]
        is_prompt = position < prompts[row]
        places = np.where(is_prompt, prompt_at[row] + position, answer_at[row] + position - prompts[row])
        other = _filled(store, places, offsets, self._seq_len)
        sides = {name: np.stack([own[name], array], axis=1) for name, array in other.items()}
        return RowArrays(own.arrays | sides, self._sides(indices), own.units)

    def _sides(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """(n, 2) int64, the inputs of both sides of each row."""
        other = self._lengths[indices + self._span.start - self._first] - 1
        return np.stack([super().lengths(indices), other], axis=1)


def _prompt_lengths(store: ConversationStore, span: range) -> NDArray[np.int64]:
    """(n,) int64, the ids before the supervised answer of each conversation of a span."""
    offsets = store.index["offset"][span.start : span.stop]
    end = int(offsets[-1]) + int(store.index["length"][span.stop - 1])
    supervised = np.flatnonzero(store.turns[int(offsets[0]) : end] > 0) + offsets[0]
    lengths: NDArray[np.int64] = supervised[np.searchsorted(supervised, offsets)] - offsets
    return lengths


def _other_answers(store: ConversationStore, span: range, prompts: NDArray[np.int64]) -> NDArray[np.int64]:
    """(n,) int64, the number within the span of the other answer of each; see `Mismatched`."""
    seen: dict[bytes, int] = {}
    begins = store.index["offset"][span.start : span.stop]
    texts = (store.ids[begin : begin + n].tobytes() for begin, n in zip(begins.tolist(), prompts.tolist(), strict=True))
    groups = np.array([seen.setdefault(sha256(text).digest(), len(seen)) for text in texts])
    most = int(np.bincount(groups).max())
    if 2 * most > len(groups):
        raise UserError(
            f"{store.directory}: {most:,} of {len(groups):,} answers to train on are to one prompt, and kto compares "
            "each with an answer to another; add answers to other prompts, or use --loss.name=apo_zero_unpaired"
        )
    circle = np.argsort(groups, kind="stable")
    others = np.empty_like(circle)
    others[circle] = np.roll(circle, -most)
    return others


def _places(store: ConversationStore, chats: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The places of all ids of (n,) conversations in `store.ids`, and the (n + 1,) offsets of each one's first."""
    record = store.index[chats]
    offsets, position, row = _flat(record["length"].astype(np.int64))
    return record["offset"][row] + position, offsets


def _flat(lengths: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """The (n + 1,) offsets of rows that lie one after the other, and the column and the row of each item."""
    offsets = offsets_of(lengths)
    return offsets, positions(offsets), np.repeat(np.arange(len(lengths)), lengths)


def _filled(
    store: ConversationStore, places: NDArray[np.int64], offsets: NDArray[np.int64], seq_len: int
) -> dict[str, NDArray[Any]]:
    """The "tokens" and "targets", (n, seq_len) int64, of n sequences, whose ids are at these places of the store."""
    from babyllm.model.cross_entropy import IGNORE  # imported here: processes that prepare a store need no torch

    lengths = np.diff(offsets)
    _, column, row = _flat(lengths)
    ids = store.ids[places].astype(np.int64)
    is_input, is_target = column < lengths[row] - 1, column > 0
    tokens = np.full((len(lengths), seq_len), store.manifest.eos_id, np.int64)
    targets = np.full((len(lengths), seq_len), IGNORE, np.int64)
    tokens[row[is_input], column[is_input]] = ids[is_input]
    supervised = np.where(store.turns[places] > 0, ids, IGNORE)
    targets[row[is_target], column[is_target] - 1] = supervised[is_target]
    return {"tokens": tokens, "targets": targets}
