"""The rendered chats of a partition as a file of blocks, and all such files joined into a store.

rendered chats -> Block by split and task -> write_blocks -> a file for each partition
               -> join -> ids.bin, turns.bin, index.bin, and a file of labels where chats have some
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from babyllm.chat.load import ChatTemplate, Rendered
from babyllm.prepare.conversations_report import Key, Result
from babyllm.store.conversations import IDS, INDEX, RECORD, TURNS, Group
from babyllm.store.shards import little_endian, token_dtype
from babyllm.tokenizer import load_tokenizer

PIECE = "conversations.bin"
COPY_BYTES = 1 << 22


class Labels(NamedTuple):
    """The numbers that a store keeps for its chats, beside their ids.

    Attributes:
        name: name of the file.
        dtype: type of a record in it.
        chats: number of adjacent chats that share a record.
    """

    name: str
    dtype: np.dtype[Any]
    chats: int = 1


@dataclass
class Block:
    """The rendered chats of a split and task, and their counts."""

    ids: list[bytes] = field(default_factory=list)
    turns: list[bytes] = field(default_factory=list)
    records: list[tuple[int, int, int, int]] = field(default_factory=list)
    labels: list[tuple[Any, ...]] = field(default_factory=list)
    tokens: int = 0

    def add(self, rendered: Rendered, kinds: tuple[np.dtype[Any], np.dtype[Any]]) -> None:
        """Add a chat; `kinds` are the types on disk."""
        supervised = rendered.turns[1:][rendered.turns[1:] > 0]  # the first id is not a target
        n_turns, n_ids = int(np.count_nonzero(np.bincount(supervised))), len(rendered.ids)
        self.records.append((self.tokens, n_ids, n_turns, len(supervised)))
        self.ids.append(rendered.ids.astype(kinds[0]).tobytes())
        self.turns.append(rendered.turns.astype(kinds[1]).tobytes())
        self.tokens += n_ids

    def group(self, key: Key) -> Group:
        """The size of the block."""
        _, lengths, turns, supervised = zip(*self.records, strict=True)
        return Group(*key, len(self.records), sum(turns), self.tokens, sum(supervised), max(lengths))


def kinds_of(vocab_size: int, seq_len: int) -> tuple[np.dtype[Any], np.dtype[Any]]:
    """The types on disk of ids and of turn numbers; a chat has at most as many turns as ids."""
    return little_endian(token_dtype(vocab_size)), little_endian(token_dtype(seq_len + 2))


def write_blocks(folder: Path, blocks: Mapping[Key, Block], labels: Labels | None = None) -> list[Group]:
    """Write the chats of a partition into one file, one split and task after the other; returns their sizes."""
    with (folder / PIECE).open("wb") as file:
        for block in blocks.values():
            file.write(np.array(block.records, RECORD).tobytes())
            if labels:
                file.write(np.array(block.labels, labels.dtype).tobytes())
            file.writelines([*block.ids, *block.turns])
        file.flush()
        os.fsync(file.fileno())
    return [block.group(key) for key, block in blocks.items()]


@lru_cache(maxsize=1)
def load_once(directory: Path, source: str, sha256: str, allow_special: tuple[str, ...]) -> ChatTemplate:
    """The template of a worker process; cached, because a tokenizer may take a while to load."""
    tokenizer = load_tokenizer(directory, sha256)
    assert tokenizer is not None
    return ChatTemplate(source, tokenizer, allow_special=allow_special)


def join(
    directory: Path,
    folders: Sequence[Path],
    results: Sequence[Result],
    kinds: tuple[np.dtype[Any], np.dtype[Any]],
    labels: Labels | None = None,
) -> tuple[list[Group], dict[str, str]]:
    """Write the files of a store, one split and task after the other; returns the totals, and each file's sha256."""
    label_bytes = (lambda n: n // labels.chats * labels.dtype.itemsize) if labels else (lambda n: 0)
    places: dict[Key, list[tuple[Path, int, Group]]] = {}
    for folder, result in zip(folders, results, strict=True):
        offset = 0
        for group in result.groups:
            places.setdefault((group.split, group.task), []).append((folder / PIECE, offset, group))
            n = group.conversations
            offset += n * RECORD.itemsize + label_bytes(n) + group.tokens * sum(kind.itemsize for kind in kinds)
    groups: list[Group] = []
    digests = {name: hashlib.sha256() for name in (IDS, TURNS, INDEX, *([labels.name] if labels else []))}
    before = 0
    with ExitStack() as stack:
        out = {name: stack.enter_context((directory / name).open("wb")) for name in digests}

        def write(name: str, content: bytes) -> None:
            out[name].write(content)
            digests[name].update(content)

        for key in sorted(places):
            for path, offset, group in places[key]:
                with path.open("rb") as piece:
                    piece.seek(offset)
                    records = np.fromfile(piece, RECORD, group.conversations)
                    records["offset"] += before
                    write(INDEX, records.tobytes())
                    if labels:
                        write(labels.name, piece.read(label_bytes(group.conversations)))
                    for name, kind in zip((IDS, TURNS), kinds, strict=True):
                        left = group.tokens * kind.itemsize
                        while left:
                            left -= len(content := piece.read(min(left, COPY_BYTES)))
                            write(name, content)
                before += group.tokens
            groups.append(_total(key, [group for _, _, group in places[key]]))
        for file in out.values():
            file.flush()
            os.fsync(file.fileno())
    return groups, {name: digest.hexdigest() for name, digest in digests.items()}


def _total(key: Key, groups: Sequence[Group]) -> Group:
    counted = ("conversations", "turns", "tokens", "supervised")
    sums = {name: sum(getattr(group, name) for group in groups) for name in counted}
    return Group(*key, **sums, longest=max(group.longest for group in groups))
