"""Conversations from files: JSON lines, JSON, CSV, TSV and Parquet, alone, in folders, compressed or in archives.

    paths -> find_conversation_partitions -> [Partition] -> read_conversation_partition -> Conversation | Rejected

Files are read by `babyllm.text.readers`, which bound the memory and handle encodings and damaged files.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from babyllm.chat.formats import FormatConfig, columns_of, to_conversation
from babyllm.chat.messages import Conversation, Unusable
from babyllm.chat.records.advice import Unrecognised, as_flags
from babyllm.chat.records.fields import NAME_CHARACTERS
from babyllm.config.json_fields import kind_of
from babyllm.errors import UserError
from babyllm.text.readers import Partition, ReadConfig, Rejected, Source, find_partitions
from babyllm.text.readers.archives import read_files
from babyllm.text.readers.formats.table import ARCHIVES, RECORDS, TABLES
from babyllm.text.readers.line_numbers import LineNumbers
from babyllm.text.readers.records import TOO_LONG, BadRecord, Maker, T, rejected

READ = ReadConfig(domain="file")
# Chats are slow to process, so even small files are split over cores; where depends on the files alone.
MIN_PIECE_BYTES, PIECE_SHARE = 1 << 20, 1 / 16
SECTION = "data.format"  # section of a training run with the settings of `FormatConfig`
NO_CONVERSATIONS = "a file of a kind that holds no conversations"


def find_conversation_partitions(paths: Sequence[Path], partition_bytes: int) -> list[Partition]:
    """The partitions of all files that may hold conversations, by name; large files are split, small ones grouped.

    Args:
        paths: files and folders; in a folder, files of other kinds are left out.
        partition_bytes: approximate size of a partition, in bytes.

    Raises:
        UserError: a path does not exist, is given twice or holds no such file.
    """
    found = []
    for partition in find_partitions(paths, READ, partition_bytes):
        sources = tuple(source for source in partition.sources if source.format in (*RECORDS, *ARCHIVES))
        if sources:
            found.append(Partition(sources, sum(source.size_bytes for source in sources)))
    if not found:
        raise UserError(
            f"{', '.join(map(str, paths))}: no conversations to read here; supported files end in "
            f"{', '.join(RECORDS)}, the text formats also with .gz, .zst, .bz2, .xz or .lz4 after it, and .tar or "
            ".zip archives of them"
        )
    return found


def find_chats(paths: Sequence[Path], partition_bytes: int) -> list[Partition]:
    """The partitions of chat files, small enough that all cores share even a few files; where depends on the files.

    Raises:
        UserError: a path does not exist, is given twice or holds no such file.
    """
    total = sum(partition.size_bytes for partition in find_conversation_partitions(paths, partition_bytes))
    return find_conversation_partitions(paths, min(partition_bytes, max(MIN_PIECE_BYTES, round(total * PIECE_SHARE))))


def read_conversations(
    path: Path | Partition, config: FormatConfig, section: str = SECTION
) -> Iterator[Conversation | Rejected]:
    """Every record of a file, a folder or a partition, in order: a conversation, or the reason why it was rejected.

    Args:
        path: file, folder or partition to read.
        config: settings for reading records as conversations.
        section: name of the settings' section on the command line, for messages that suggest flags.

    Raises:
        UserError: the path does not exist or holds no files of conversations.
    """
    partitions = [path] if isinstance(path, Partition) else find_conversation_partitions([path], sys.maxsize)
    for partition in partitions:
        yield from read_conversation_partition(partition, config, section)


def read_conversation_partition(
    partition: Partition, config: FormatConfig, section: str = SECTION
) -> Iterator[Conversation | Rejected]:
    """Every record of a partition, in order: a conversation, or the reason why it was rejected.

    The id of a conversation is its file and, after a colon, the offset in bytes at which it begins, or its row in
    Parquet. A rejected record also has its line, unless its file was split into partitions.
    """
    yield from read_partition(partition, partial(_Conversations, config=config, section=section))


def read_partition(partition: Partition, makers: Callable[[Source], Maker[T]]) -> Iterator[T | Rejected]:
    """What is made of every record of a partition, in order, or the reason why the record was rejected.

    Args:
        partition: partition of `find_conversation_partitions`.
        makers: function from a file to what makes something of its records.
    """
    for source in partition.sources:
        yield from read_files(source, READ, partial(_read, makers=makers))


def _read(source: Source, makers: Callable[[Source], Maker[T]]) -> Iterator[T | Rejected]:
    """Every record of a file that is not an archive."""
    if source.format not in RECORDS:
        yield rejected(source.name, NO_CONVERSATIONS)
        return
    make = makers(source)
    lines = LineNumbers(source, READ) if source.format not in TABLES and source.end is None else None
    for item in RECORDS[source.format](source, READ, make):
        yield _explained(item, source, lines) if isinstance(item, Rejected) else item


def _explained(item: Rejected, source: Source, lines: LineNumbers | None) -> Rejected:
    """A rejected record with its line, and with a reason that does not mention settings of the text readers."""
    if item.reason == TOO_LONG:
        item = replace(item, reason=f"longer than {READ.max_record_bytes >> 20} MiB")
    item = replace(item, reason=item.reason.partition(" (see --read.")[0])
    offset = item.place.removeprefix(f"{source.name}:")
    return replace(item, line=lines.at(int(offset))) if lines and offset != item.place else item


class _Conversations:
    """Makes conversations of the records of one source."""

    def __init__(self, source: Source, config: FormatConfig, section: str) -> None:
        self._source, self._config, self._section = source, config, section
        self._unread: tuple[str, ...] = ()

    def document(self, record: Any, place: str) -> Conversation:
        """The conversation in a record.

        Raises:
            BadRecord: the record is not a conversation.
        """
        if not isinstance(record, dict):
            raise BadRecord(f"not an object with fields but {kind_of(record)}")
        try:
            found = to_conversation(record, self._config, task=self._source.domain, id=place)
            return replace(found, left_out=(*found.left_out, *self._unread)) if self._unread else found
        except Unusable as error:
            raise BadRecord(reason_of(error, self._section)) from None

    def columns(self, names: Sequence[str]) -> list[str]:
        """The columns that conversations are made from.

        Raises:
            BadRecord: the columns cannot hold a conversation.
        """
        try:
            needed = columns_of(names, self._config)
            if self._source.format in TABLES:
                self._unread = tuple(name[:NAME_CHARACTERS] for name in names if name not in needed)
            return needed
        except Unusable as error:
            raise BadRecord(reason_of(error, self._section)) from None


def reason_of(error: Unusable, section: str) -> str:
    """Why a record is unusable, and the flags of a section that would help."""
    if not isinstance(error, Unrecognised) or not error.settings:
        return str(error)
    return f"{error}; name them, such as {as_flags(error.settings, section)}"
