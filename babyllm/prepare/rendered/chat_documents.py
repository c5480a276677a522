"""Conversations as pretraining documents: rendered by a chat template, or as the plain text of their messages.

partition -> conversations -> the template's ids and <eos>        -> Encoded
                           -> contents, one below the other, as text -> encode -> Encoded

All ids are trained on, as in any document. With the template of the later fine-tuning, the end of pretraining shows a
model the form of chats (MiniCPM, Hu et al. 2024, section 4.3).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from babyllm.chat.formats import FormatConfig
from babyllm.chat.load import ChatTemplate
from babyllm.chat.messages import Conversation, Unusable
from babyllm.chat.reading import read_conversation_partition
from babyllm.documents import Document, is_held_out
from babyllm.pipeline.output import REJECTED
from babyllm.prepare.encode import Encoded, Group, batches, encode
from babyllm.prepare.held_out import contents_of
from babyllm.store.shards import Split
from babyllm.text.readers import Partition, Rejected
from babyllm.text.readers.records import rejected
from babyllm.tokenizer import Tokenizer


@dataclass(frozen=True)
class ChatDocuments:
    """How conversations become documents.

    Attributes:
        format: rules by which records become conversations.
        template: chat template that renders them; None writes the contents of their messages one below the other.
        domain: domain of all of them; empty takes their tasks.
    """

    format: FormatConfig
    template: ChatTemplate | None = None
    domain: str = ""

    def makes(self) -> dict[str, Any]:
        """What determines the documents, as a JSON value."""
        return {
            "format": asdict(self.format),
            "template": self.template.source if self.template else None,
            "domain": self.domain,
        }

    def encoded(
        self, source: Partition, tokenizer: Tokenizer, held_out: float, unused: Counter[str], folder: Path
    ) -> Iterator[Encoded]:
        """The conversations of a partition as ids, by domain and split.

        Args:
            source: partition of chat files.
            tokenizer: tokenizer of the documents, which is that of the template.
            held_out: share of the conversations in the "val" split, chosen by a hash of roles and contents.
            unused: counter of the records that are not used, by reason, which is updated.
            folder: folder for a `rejected.jsonl` with these records.
        """
        found = self._conversations(source, unused, folder)
        if self.template is None:
            texts = (Document(_plain(chat), self.domain or chat.task, chat.id) for chat in found)
            for batch in batches(texts):
                yield from encode(batch, tokenizer, held_out, n_threads=1)
            return
        yield from self._rendered(found, self.template, held_out, unused, folder)

    def _conversations(self, source: Partition, unused: Counter[str], folder: Path) -> Iterator[Conversation]:
        for record in read_conversation_partition(source, self.format, "format"):
            if isinstance(record, Rejected):
                _reject(record, unused, folder)
            else:
                yield record

    def _rendered(
        self,
        chats: Iterable[Conversation],
        template: ChatTemplate,
        held_out: float,
        unused: Counter[str],
        folder: Path,
    ) -> Iterator[Encoded]:
        eos_id = template.tokenizer.eos_id
        for chat in chats:
            try:
                ids = template.render(chat.messages).ids
            except Unusable as error:
                _reject(rejected(chat.id, str(error), chat.messages[0].content), unused, folder)
                continue
            if ids[-1] != eos_id:
                ids = np.append(ids, eos_id)
            contents = contents_of(chat.messages)
            split: Split = "val" if is_held_out(contents, held_out) else "train"
            text = _plain(chat)
            n_bytes = len(text.encode())
            group = Group(self.domain or chat.task, split, 1, len(ids), len(text), n_bytes)
            yield Encoded(group, ids.astype(np.int32), np.array([[len(ids), n_bytes]], np.int64))


def _plain(chat: Conversation) -> str:
    return "\n".join(message.spelled_out().content for message in chat.messages)


def _reject(record: Rejected, unused: Counter[str], folder: Path) -> None:
    unused[record.reason] += 1
    with open(folder / REJECTED, "a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(record), ensure_ascii=False) + "\n")
