"""Pairs of answers, or answers with verdicts, on disk: conversations, and a file of labels beside them.

conversations.json, ids.bin, turns.bin, index.bin + pairs.bin | answers.bin -> PairStore

A pair is two adjacent conversations, the chosen one first, of which only the last answer is supervised. A store of
answers holds one conversation for each.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from babyllm.errors import UserError
from babyllm.store.conversations import ConversationStore
from babyllm.store.shards import Split

PAIRS, ANSWERS = "pairs.bin", "answers.bin"
PAIR = np.dtype([("margin", "<f4"), ("difficulty", "<f4")])
"""The labels of a pair; NaN where the data says nothing."""
ANSWER = np.dtype([("desirable", "<f4")])
"""The label of an answer: 1 for a good one, 0 for a bad one."""

Kind = Literal["pairs", "answers"]
"""What a store holds: pairs of answers, or single answers with verdicts."""


class PairStore:
    """A directory of pairs or of answers, mapped into memory.

    Attributes:
        chats: the conversations; those of pair i are 2i, the chosen one, and 2i + 1.
        kind: "pairs" or "answers".
        labels: one `PAIR` for each pair, or one `ANSWER` for each answer.
    """

    def __init__(self, chats: ConversationStore, kind: Kind) -> None:
        self.chats, self.kind = chats, kind
        file, dtype = chats.directory / (PAIRS if kind == "pairs" else ANSWERS), PAIR if kind == "pairs" else ANSWER
        self.labels: NDArray[Any] = (
            np.asarray(np.memmap(file, dtype, "r")) if file.stat().st_size else np.empty(0, dtype)
        )

    @classmethod
    def open(cls, directory: Path, kind: Kind = "pairs", *, check: bool = True) -> PairStore:
        """The finished store in a directory.

        Args:
            directory: directory of the store.
            kind: what it must hold.
            check: whether to verify files that are not recorded as verified; not needed where another process does it.

        Raises:
            UserError: there is no finished store of this kind, or one of its files is missing or damaged.
        """
        chats = ConversationStore.open(directory, check=check)
        if (found := kind_of_store(chats)) != kind:
            raise UserError(f"{directory}: holds {found}, not {kind}; choose another directory")
        file, per = directory / (PAIRS if kind == "pairs" else ANSWERS), 2 if kind == "pairs" else 1
        size = len(chats.index) // per * (PAIR if kind == "pairs" else ANSWER).itemsize
        if not file.is_file() or file.stat().st_size != size:
            raise UserError(
                f"{file}: is not as long as the store says; move {directory} away: the command that made it makes the "
                "same store again from its files"
            )
        return cls(chats, kind)

    @property
    def fingerprint(self) -> str:
        """A hexadecimal hash of all that decides the data, labels included."""
        return self.chats.fingerprint

    @property
    def chats_of_one(self) -> int:
        """The number of conversations of a pair or of an answer."""
        return 2 if self.kind == "pairs" else 1

    def span(self, split: Split, task: str | None = None) -> range:
        """The numbers of the pairs, or the answers, of a split, or of one task in it.

        Raises:
            UserError: there are none.
        """
        span = self.chats.span(split, task)
        return range(span.start // self.chats_of_one, span.stop // self.chats_of_one)

    def answer_lengths(self, split: Split) -> NDArray[np.int64]:
        """(n, 2) int64, the tokens of the chosen and of the rejected answer of each pair, or (n, 1) for answers.

        Raises:
            UserError: there are no pairs in this split.
        """
        span = self.chats.span(split)
        lengths: NDArray[np.int64] = self.chats.index["supervised"][span.start : span.stop].astype(np.int64)
        return lengths.reshape(-1, self.chats_of_one)


def kind_of_store(chats: ConversationStore) -> Kind | Literal["conversations"]:
    """What a store of conversations is part of."""
    for name, kind in ((PAIRS, "pairs"), (ANSWERS, "answers")):
        if name in chats.manifest.sha256:
            return "pairs" if kind == "pairs" else "answers"
    return "conversations"
