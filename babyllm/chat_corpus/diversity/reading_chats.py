"""The diversity of files of conversations, with a progress line."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from babyllm.chat.formats import FormatConfig
from babyllm.chat.messages import Conversation
from babyllm.chat.reading import find_conversation_partitions, read_conversation_partition
from babyllm.chat_corpus.diversity.gather import diversity_of
from babyllm.chat_corpus.diversity.totals import Diversity
from babyllm.errors import UserError
from babyllm.pipeline.rejections import told
from babyllm.progress import ProgressLine
from babyllm.store.conversations import is_store
from babyllm.text.readers import Partition, Rejected

PARTITION_BYTES = 1 << 20  # the progress line is updated after each partition


def diversity_at(path: Path, config: FormatConfig) -> Diversity:
    """The diversity of the conversations of a file or folder.

    Args:
        path: file or folder.
        config: settings for reading records as conversations.

    Raises:
        UserError: the path does not exist, or holds no conversations.
    """
    if is_store(path):
        raise UserError(f"{path}: holds conversations prepared for a run; name the files that they were read from")
    partitions = find_conversation_partitions([path], PARTITION_BYTES)
    found = diversity_of(_read(partitions, config))
    if not found.n:
        reasons = f": {told(found.rejected)}" if found.rejected else ""
        raise UserError(f"{path}: holds no conversations{reasons or '; it has no records'}")
    return found


def _read(partitions: Sequence[Partition], config: FormatConfig) -> Iterator[Conversation | Rejected]:
    progress = ProgressLine("look", sum(partition.size_bytes for partition in partitions), output=sys.stderr)
    done = 0
    for partition in partitions:
        yield from read_conversation_partition(partition, config, "format")
        done += partition.size_bytes
        progress.show(done)
    progress.end()
