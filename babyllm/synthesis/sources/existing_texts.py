"""The texts of an existing set, which new records must not repeat."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from babyllm.chat.formats import FormatConfig
from babyllm.chat.messages import ASSISTANT
from babyllm.chat.reading import find_conversation_partitions
from babyllm.chat_corpus.chat_records import questions_of, read_records, to_any
from babyllm.errors import UserError
from babyllm.text.readers import Rejected


def existing_texts(files: Sequence[Path], format: FormatConfig) -> list[tuple[str, str]]:
    """The texts of conversations and prompts in the forms that recipes compare, each with the place of its record.

    They are each question; the messages before the last answer, where they are several; and these with the answer.

    Args:
        files: files and folders.
        format: fields of the records.

    Raises:
        UserError: a file cannot be read, or none has a record.
    """
    found: list[tuple[str, str]] = []
    first: Rejected | None = None
    for partition in find_conversation_partitions(files, sys.maxsize) if files else ():
        for one in read_records(partition, format, to_any):
            if isinstance(one, Rejected):
                first = first or one
                continue
            messages = list(one.conversation.messages)
            answer = messages.pop().content if messages and messages[-1].role == ASSISTANT else ""
            asked = "\n".join(message.content for message in messages)
            texts = [*questions_of(one.conversation), asked, *([f"{asked}\n{answer}"] if answer else [])]
            found += [(one.conversation.id, text) for text in dict.fromkeys(texts) if text.strip()]
    if files and not found:
        why = f"; the first was refused: {first.reason}" if first else ""
        raise UserError(f"--against: {', '.join(map(str, files))}: no conversations or prompts{why}")
    return found
