"""Conversations on disk as ids.

ids.bin, turns.bin, index.bin, conversations.json (written last: the commit mark) -> ConversationStore

`ids.bin` holds the ids of all conversations, one after the other. `turns.bin` holds, for each id, the number of the
supervised turn it belongs to, or 0. Conversations are sorted by split, task and input order, so those of a task are
adjacent. The files are mapped rather than loaded, so a store of ten million opens as fast as one of a thousand.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from babyllm.config import nearest
from babyllm.errors import UserError
from babyllm.files import begins_with, read_sealed_json
from babyllm.integrity import require_whole
from babyllm.ragged import offsets_of
from babyllm.store.shards import Split, little_endian

FORMAT_VERSION = 1
ALL = "all"
"""The name under which metrics of all tasks together are reported; no task may have it."""
MANIFEST = "conversations.json"
_BEGINNING = re.compile(rb'\s*\{\s*"manifest":\s*\{\s*"dtype":')
IDS, TURNS, INDEX = "ids.bin", "turns.bin", "index.bin"
# For each conversation: its first id, and its number of ids, of supervised turns and of supervised targets.
RECORD = np.dtype([("offset", "<i8"), ("length", "<i4"), ("turns", "<i4"), ("supervised", "<i4")])

LossAverage = Literal["token", "turn", "conversation"]
"""The unit that a fine-tuning loss is the mean over."""


@dataclass(frozen=True)
class Group:
    """The size of a split and task, whose conversations are adjacent.

    Attributes:
        split: "train" or "val".
        task: name of the task.
        conversations: number of conversations.
        turns: number of supervised turns.
        tokens: number of ids.
        supervised: number of targets that are trained on.
        longest: number of ids of the longest conversation.
    """

    split: Split
    task: str
    conversations: int
    turns: int
    tokens: int
    supervised: int
    longest: int


@dataclass(frozen=True)
class Manifest:
    """The description of a store.

    Attributes:
        dtype: type of ids.bin, "uint16" or "uint32".
        turns_dtype: type of turns.bin, "uint16" or "uint32".
        vocab_size: vocabulary size of the tokenizer that made the ids.
        eos_id: id of <eos>, which pads rows.
        tokenizer_sha256: sha256 of that tokenizer, in hexadecimal.
        groups: sizes of each split and task, in the order of the conversations.
        sha256: sha256 of the three files by name, in hexadecimal.
        version: version of the format.
    """

    dtype: str
    turns_dtype: str
    vocab_size: int
    eos_id: int
    tokenizer_sha256: str
    groups: tuple[Group, ...]
    sha256: dict[str, str]
    version: int = FORMAT_VERSION

    def fingerprint(self) -> str:
        """A hexadecimal hash of all that decides the data: ids, turns, tasks, their order and their splits."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


class ConversationStore:
    """A directory of conversations, mapped into memory.

    Attributes:
        directory: directory of the store.
        manifest: description of its contents.
        tasks: names of all tasks of both splits, sorted; channels are indices into this list.
        ids: token ids of all conversations, one after the other: (N,) of the manifest's `dtype`.
        turns: number of the supervised turn of each id, from 1, or 0 for none: (N,) of the manifest's `turns_dtype`.
        index: one `RECORD` for each conversation.
    """

    def __init__(self, directory: Path, manifest: Manifest) -> None:
        self.directory, self.manifest = directory, manifest
        self.tasks = sorted({group.task for group in manifest.groups})
        self.ids = _mapped(directory / IDS, manifest.dtype)
        self.turns = _mapped(directory / TURNS, manifest.turns_dtype)
        self.index = _mapped(directory / INDEX, RECORD)
        self._firsts = offsets_of(np.array([group.conversations for group in manifest.groups]))
        self._channels = np.array([self.tasks.index(group.task) for group in manifest.groups], np.int64)

    @classmethod
    def open(cls, directory: Path, *, check: bool = True, verify: bool = False) -> ConversationStore:
        """The finished store in a directory.

        Args:
            directory: directory of the store.
            check: whether to verify files that are not recorded as verified; not needed where another process does it.
            verify: whether to verify all files, recorded or not.

        Raises:
            UserError: there is no finished store, or one of its files is missing or damaged.
        """
        file = directory / MANIFEST
        try:
            raw = read_sealed_json(file)["manifest"]
            if raw["version"] != FORMAT_VERSION:
                raise UserError(f"{file}: format version {raw['version']}, this babyllm reads {FORMAT_VERSION}")
            raw["groups"] = tuple(Group(**group) for group in raw["groups"])
            manifest = Manifest(**raw)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{file}: no finished store of conversations ({error}); {_advice(directory)}") from error
        n_ids = sum(group.tokens for group in manifest.groups)
        n_conversations = sum(group.conversations for group in manifest.groups)
        for name, kind, count in (
            (IDS, manifest.dtype, n_ids),
            (TURNS, manifest.turns_dtype, n_ids),
            (INDEX, RECORD, n_conversations),
        ):
            part = directory / name
            if not part.is_file() or part.stat().st_size != count * np.dtype(kind).itemsize:
                raise UserError(f"{part}: is not as long as {MANIFEST} says; {_advice(directory)}")
        if check:
            require_whole(directory, manifest.sha256, _advice(directory), again=verify)
        return cls(directory, manifest)

    @property
    def fingerprint(self) -> str:
        """A hexadecimal hash of all that decides the data."""
        return self.manifest.fingerprint()

    def tasks_of(self, split: Split) -> list[str]:
        """The tasks with conversations in a split, sorted."""
        return [group.task for group in self.manifest.groups if group.split == split]

    def groups(self, split: Split, task: str | None = None) -> list[Group]:
        """The sizes of the tasks of a split, or of one task."""
        return [group for group in self.manifest.groups if group.split == split and task in (None, group.task)]

    def span(self, split: Split, task: str | None = None) -> range:
        """The numbers of the conversations of a split, or of one task in it.

        Raises:
            UserError: there are no such conversations.
        """
        at = [i for i, g in enumerate(self.manifest.groups) if g.split == split and task in (None, g.task)]
        if not at:
            if task is not None and (tasks := self.tasks_of(split)):
                near = nearest(task, tasks)
                raise UserError(f"{self.directory}: no conversation of task '{task}' ({split}): did you mean '{near}'?")
            raise UserError(f"{self.directory}: no conversation in the split '{split}'; hold out another share")
        return range(int(self._firsts[at[0]]), int(self._firsts[at[-1] + 1]))

    def lengths(self, split: Split, task: str | None = None) -> NDArray[np.int64]:
        """(n,) int64, the number of inputs of each conversation of a split: one less than its ids.

        Raises:
            UserError: there are no such conversations.
        """
        span = self.span(split, task)
        return self.index["length"][span.start : span.stop].astype(np.int64) - 1

    def channels(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """(n,) int64, the index in `tasks` of each of the conversations with these (n,) numbers."""
        return self._channels[np.searchsorted(self._firsts, numbers, side="right") - 1]

    def conversation(self, number: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The (L,) int64 ids of a conversation, and the (L,) int64 number of each id's supervised turn, or 0."""
        offset, length = int(self.index["offset"][number]), int(self.index["length"][number])
        here = slice(offset, offset + length)
        return self.ids[here].astype(np.int64), self.turns[here].astype(np.int64)


def is_store(directory: Path) -> bool:
    """Whether a directory holds the commit mark of a store, damaged or not.

    A file of that name with other contents counts only where all other files of a store lie beside it.
    """
    is_beside = all((directory / name).is_file() for name in (MANIFEST, IDS, TURNS, INDEX))
    return is_beside or begins_with(directory / MANIFEST, _BEGINNING)


def _advice(directory: Path) -> str:
    return f"move {directory} away: the command that made it makes the same store again from its files"


def _mapped(file: Path, kind: Any) -> NDArray[Any]:
    kind = little_endian(kind) if isinstance(kind, str) else kind
    # An empty file cannot be mapped. A plain array, because slices of a memmap object are memmaps, which cost more.
    return np.asarray(np.memmap(file, kind, "r")) if file.stat().st_size else np.empty(0, kind)
