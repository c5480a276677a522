"""The choice of held-out chats: a share or a number of them, by a hash of roles and contents.

share    -> is_held_out -> is_apart
number n -> the n smallest hashes of all partitions -> first_kept -> is_apart

Equal conversations, and pairs with equal prompts, have the same hash, so they are always in the same split. The choice
depends on the files alone.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from babyllm.chat.messages import Message
from babyllm.documents import is_held_out, spread_key
from babyllm.pipeline.partitions import WorkConfig, run_partitions
from babyllm.text.readers import Partition

LAST = b"\xff" * 9
"""A value greater than every hash."""


def is_apart(contents: str, held_out: float, first_kept: bytes) -> bool:
    """Whether a record is held out.

    Args:
        contents: result of `contents_of` for the messages that decide.
        held_out: share of the records or, as an integer, number of records that are held out.
        first_kept: smallest hash that is not held out, where `held_out` is a number.
    """
    if isinstance(held_out, int):
        return spread_key(contents) < first_kept
    return is_held_out(contents, held_out)


def contents_of(messages: Sequence[Message]) -> str:
    """The roles and contents of messages as one text, different for different messages."""
    # Absent reasoning and tools add nothing, so conversations without them keep the split of earlier versions.
    texts = [text for m in messages for text in (m.role, m.content, *filter(None, (m.reasoning, m.tools)))]
    return "\0".join([*texts, ""])


def identity_of(*parts: Sequence[Message]) -> str:
    """A text that only lists of messages with equal roles, contents, reasoning, tools and weights share."""
    said = [[[m.role, m.content, m.reasoning, m.tools, m.weight] for m in messages] for messages in parts]
    return json.dumps(said, ensure_ascii=False)


def first_kept(
    partitions: Sequence[Partition],
    n: int,
    contents: Callable[[Partition], Iterable[str]],
    directory: Path,
    *,
    key: Any,
    work: WorkConfig,
) -> bytes:
    """The smallest hash of a record that is trained on where `n` records are held out.

    Args:
        partitions: partitions of all files, which are read for it.
        n: number of records to hold out; those equal to the last of them are held out as well.
        contents: function from a partition to the texts that decide, as of `contents_of`: one for each record that is
            not held out in any case.
        directory: directory for the results of each partition.
        key: JSON value that changes when the input does.
        work: number of processes.

    Returns:
        8 bytes; 9 bytes where no hash of a record fits, such as when all records are held out.
    """
    results = run_partitions(
        partitions,
        partial(_smallest, n=n + 1, contents=contents),
        directory,
        key=[key, "held out"],
        work=work,
        sizes=[partition.size_bytes for partition in partitions],
        title="held out",
    )
    found = heapq.nsmallest(n + 1, map(bytes.fromhex, chain.from_iterable(results)))
    if len(found) <= n:
        return LAST
    last = found[n - 1] if n else b""
    # Equal records stay together.
    return max(found[n], last + b"\0")


def _smallest(partition: Partition, _: Path, *, n: int, contents: Callable[[Partition], Iterable[str]]) -> list[str]:
    return [key.hex() for key in heapq.nsmallest(n, map(spread_key, contents(partition)))]
