"""Records of files as questions to a model: what it reads, and the right answers where they are known.

record -> messages and last answer (`to_question`) -> chat template, or plain text -> ids -> Question
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from babyllm.chat.formats import FormatConfig, to_question
from babyllm.chat.load import ChatTemplate
from babyllm.chat.messages import USER, Message, Unusable
from babyllm.chat.reading import READ, find_conversation_partitions
from babyllm.config.json_fields import kind_of
from babyllm.errors import UserError
from babyllm.text.readers import Partition, Rejected, Source
from babyllm.text.readers.archives import read_files
from babyllm.text.readers.formats.table import RECORDS
from babyllm.text.readers.records import BadRecord
from babyllm.tokenizer import Tokenizer

PROMPT, REFERENCE, REFERENCES = "prompt", "reference", "references"


class Question(NamedTuple):
    """A record as a question.

    Attributes:
        ids: ids that the model reads before it answers.
        answer: last answer of the record, which the model does not read; None if the record has none.
    """

    ids: list[int]
    answer: str | None


@dataclass(frozen=True)
class Asking:
    """How records become questions.

    Attributes:
        tokenizer: tokenizer of the model.
        template: chat template that renders conversations; None continues plain texts.
        format: settings for reading records as conversations.
    """

    tokenizer: Tokenizer
    template: ChatTemplate | None
    format: FormatConfig = field(default_factory=FormatConfig)

    def question(self, record: Mapping[str, Any]) -> Question:
        """The question in a record.

        Raises:
            Unusable: the record asks for nothing, or cannot be rendered.
        """
        messages, answer = to_question(record, self.format)
        try:
            if self.template is not None:
                return Question(self.template.prompt(messages), answer)
            text = self._plain(record, messages)
            return Question([self.tokenizer.begin_id, *self.tokenizer.encode(text)], answer)
        except UserError as error:
            raise Unusable(str(error)) from None

    def _plain(self, record: Mapping[str, Any], messages: Sequence[Message]) -> str:
        """The text that a base model continues: the field `prompt`, or else the only message."""
        text = record.get(PROMPT)
        if isinstance(text, str) and not self.format.prompt:
            return text
        if len(messages) > 1 or messages[0].role != USER:
            raise Unusable("several messages, where plain text is continued; leave out --chat=false")
        return messages[0].content


def references(record: Mapping[str, Any]) -> list[str]:
    """The right answers that a record names in a field `reference` or `references`: a text or a list of texts."""
    value = record.get(REFERENCE) or record.get(REFERENCES) or []
    values = value if isinstance(value, list) else [value]
    return [text for text in values if isinstance(text, str)]


def find_records(source: Path) -> list[Partition]:
    """The partitions of a file or folder, in the order of names; errors as for `find_conversation_partitions`."""
    return find_conversation_partitions([source], sys.maxsize)


def read_records(partitions: Sequence[Partition]) -> Iterator[dict[str, Any] | Rejected]:
    """Every record of the partitions, in order, with all its fields; or the reason why it cannot be read."""
    for partition in partitions:
        for source in partition.sources:
            yield from read_files(source, READ, _read)


def _read(source: Source) -> Iterator[dict[str, Any] | Rejected]:
    return RECORDS[source.format](source, READ, _Whole())


class _Whole:
    """Makes records of themselves."""

    def document(self, record: Any, place: str) -> dict[str, Any]:
        if not isinstance(record, dict):
            raise BadRecord(f"not an object with fields but {kind_of(record)}")
        return record

    def columns(self, names: Sequence[str]) -> list[str]:
        return list(names)
