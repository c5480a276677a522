"""The records of chat files with all their fields, and the conversation in each.

partition -> read_records -> ChatRecord | Rejected
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

from babyllm.chat.formats import FormatConfig, columns_of, task_of, to_conversation, to_question
from babyllm.chat.messages import ASSISTANT, USER, Conversation, Unusable
from babyllm.chat.preferences import PreferencePair, to_preference
from babyllm.chat.reading import read_partition, reason_of
from babyllm.chat.records.fields import RecordFields
from babyllm.config.json_fields import kind_of
from babyllm.text.readers import Partition, Rejected, Source
from babyllm.text.readers.records import BadRecord

SECTION = "format"  # section of the offline commands with the settings of `FormatConfig`

Reading = Callable[..., Conversation]
"""A function `(record, format, task=..., id=...)` that returns the conversation of a record, or raises `Unusable`."""


class ChatRecord(NamedTuple):
    """A record of a chat file.

    Attributes:
        fields: all its fields, by the names and in the order of the file.
        conversation: the conversation in it; its id is the file and the offset in bytes, or the row of a table.
        source: file that it is from.
    """

    fields: dict[str, Any]
    conversation: Conversation
    source: Source


def read_records(
    partition: Partition, format: FormatConfig, of: Reading = to_conversation
) -> Iterator[ChatRecord | Rejected]:
    """Every record of a partition, in order, or the reason why it holds no conversation.

    Args:
        partition: partition to read.
        format: rules by which records become conversations.
        of: function that returns the conversation of a record: `to_conversation` or `to_any`.
    """
    yield from read_partition(partition, partial(_Records, format=format, of=of))


def to_any(record: Mapping[str, Any], config: FormatConfig, *, task: str, id: str) -> Conversation:
    """The conversation of a record that may also be a preference, with its chosen answer, or a prompt without answer.

    Raises:
        Unusable: the record is neither.
    """
    try:
        return to_conversation(record, config, task=task, id=id)
    except Unusable as error:
        with suppress(Unusable):
            found = to_preference(record, config, task=task, id=id)
            messages = (*found.prompt, *found.chosen) if isinstance(found, PreferencePair) else found.messages
            return Conversation(tuple(messages), found.task, id)
        with suppress(Unusable):
            asked, answer = to_question(record, config)
            if answer is None:
                return Conversation(tuple(asked), task_of(RecordFields(record), config) or task, id)
        raise error


class _Records:
    """Makes chat records of the records of one source."""

    def __init__(self, source: Source, format: FormatConfig, of: Reading) -> None:
        self._source, self._format, self._of = source, format, of

    def document(self, record: Any, place: str) -> ChatRecord:
        """The record with its conversation.

        Raises:
            BadRecord: the record is not a conversation.
        """
        if not isinstance(record, dict):
            raise BadRecord(f"not an object with fields but {kind_of(record)}")
        try:
            found = self._of(record, self._format, task=self._source.domain, id=place)
        except Unusable as error:
            raise BadRecord(reason_of(error, SECTION)) from None
        return ChatRecord(record, found, self._source)

    def columns(self, names: Sequence[str]) -> list[str]:
        """All columns, because the whole record is written again.

        Raises:
            BadRecord: the columns cannot hold a conversation.
        """
        try:
            if self._of is to_conversation:
                columns_of(names, self._format)
        except Unusable as error:
            raise BadRecord(reason_of(error, SECTION)) from None
        return list(names)


def text_of(conversation: Conversation) -> str:
    """The contents of all messages, each with its reasoning, one below the other."""
    return "\n".join(text for m in conversation.messages for text in (m.reasoning, m.content) if text)


def questions_of(conversation: Conversation) -> list[str]:
    """The contents of the user's messages."""
    return [message.content for message in conversation.messages if message.role == USER]


def answers_of(conversation: Conversation) -> list[str]:
    """The contents of the assistant's messages."""
    return [message.content for message in conversation.messages if message.role == ASSISTANT]
