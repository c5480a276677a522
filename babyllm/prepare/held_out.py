"""Which conversations are held out: a share of them or a number, by a hash of what they say.

    share -> is_held_out;   number n -> the n smallest hashes of all pieces -> the first that is kept -> is_held_out

Equal conversations share a hash, so they are always on the same side; what is held out follows from the files alone.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from babyllm.chat.formats import FormatConfig
from babyllm.chat.messages import Conversation
from babyllm.chat.reading import read_conversation_partition
from babyllm.documents import is_held_out, spread_key
from babyllm.pipeline.partitions import WorkConfig, run_partitions
from babyllm.text.readers import Partition, Rejected

LAST = b"\xff" * 9
"""Greater than every hash."""


def is_apart(conversation: Conversation, held_out: float, first_kept: bytes) -> bool:
    """Whether a conversation is held out.

    Args:
        conversation: of which roles and contents decide.
        held_out: the share that is, or as a whole number how many are.
        first_kept: the hash from which on a number of them leaves conversations to train on.
    """
    contents = contents_of(conversation)
    if isinstance(held_out, int):
        return spread_key(contents) < first_kept
    return is_held_out(contents, held_out)


def contents_of(conversation: Conversation) -> str:
    """What a conversation says, as one text that no other has."""
    # Without reasoning and tools it is the text that decided before there were such, so that splits stay as they were.
    texts = [text for m in conversation.messages for text in (m.role, m.content, *filter(None, (m.reasoning, m.tools)))]
    return "\0".join([*texts, ""])


def first_kept(
    partitions: Sequence[Partition],
    n: int,
    format: FormatConfig,
    apart: Sequence[str],
    directory: Path,
    *,
    key: Any,
    work: WorkConfig,
) -> bytes:
    """The hash from which on conversations are trained on where `n` of them are held out.

    Args:
        partitions: of all files, which are read for it.
        n: conversations to hold out; one more for each that is equal to the last of them.
        format: how records become conversations.
        apart: names of files that are held out in any case.
        directory: for what is found in each piece.
        key: JSON value that decides what there is to read.
        work: processes.
    """
    results = run_partitions(
        partitions,
        partial(_smallest, n=n + 1, format=format, apart=tuple(apart)),
        directory,
        key=[key, "held out"],
        workers=work.workers,
        sizes=[partition.size_bytes for partition in partitions],
        title="held out",
    )
    found = heapq.nsmallest(n + 1, map(bytes.fromhex, chain.from_iterable(results)))
    if len(found) <= n:
        return LAST
    last = found[n - 1] if n else b""
    # Equal conversations stay together.
    return max(found[n], last + b"\0")


def _smallest(partition: Partition, _: Path, *, n: int, format: FormatConfig, apart: tuple[str, ...]) -> list[str]:
    keys = (
        spread_key(contents_of(found))
        for source in partition.sources
        if source.name not in apart
        for found in read_conversation_partition(Partition((source,), source.size_bytes), format)
        if not isinstance(found, Rejected)
    )
    return [key.hex() for key in heapq.nsmallest(n, keys)]
