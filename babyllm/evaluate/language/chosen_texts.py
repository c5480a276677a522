"""The documents of raw text files to evaluate on, chosen by their texts alone.

paths -> readers -> documents -> those with the smallest hashes of (seed, text)

A choice by tokens would differ between tokenizers. Here all models and tokenizers read the same documents, whatever the
order of files, and a smaller number chooses some of those of a larger one.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from pathlib import Path

from babyllm.documents import Document
from babyllm.prepare.inputs import Source, documents_of, find_sources
from babyllm.store.shard_writer import check_domain
from babyllm.text.readers import WHOLE_FILES, ReadConfig


class TextFiles:
    """The documents of files, which can be read several times.

    Attributes:
        rejected: number of records that were rejected in the last reading, by reason.
    """

    def __init__(self, paths: Sequence[Path], read: ReadConfig) -> None:
        """Find the files.

        Args:
            paths: corpora, and files and folders for the readers.
            read: settings of the readers.

        Raises:
            UserError: a path does not exist, is given twice, or holds nothing that can be read.
        """
        self._sources: list[Source] = find_sources(paths, read, WHOLE_FILES)
        self._read = read
        self.rejected: Counter[str] = Counter()

    def __iter__(self) -> Iterator[Document]:
        """The documents in order, without empty ones; one at a time is in memory.

        Raises:
            UserError: a file cannot be read or is damaged, or a domain is named "all".
        """
        self.rejected.clear()
        for source in self._sources:
            for document in documents_of(source, self._read, self.rejected, None):
                check_domain(document.domain)
                if document.text:
                    yield document


def chosen_texts(
    documents: Iterable[Document], n: int | None = None, max_bytes: int | None = None, seed: int = 0
) -> Iterable[Document]:
    """The documents to evaluate on, in order; all of them, unread, without a limit.

    Args:
        documents: documents to choose from. With a limit they are read once, and the chosen ones are held in memory.
        n: largest number of documents; None for no limit.
        max_bytes: UTF-8 bytes of text; the document that reaches this number is the last to be chosen. None for no
            limit.
        seed: seed of the choice.
    """
    if n is None and max_bytes is None:
        return documents
    kept: list[
        tuple[int, int, int, Document]
    ] = []  # a heap of (-hash, -index, bytes, document), the largest hash first
    total = 0

    def is_too_much() -> bool:
        return (n is not None and len(kept) > n) or (max_bytes is not None and total - kept[0][2] >= max_bytes)

    for index, document in enumerate(documents):
        size = len(document.text.encode())
        heapq.heappush(kept, (-_hash(document.text, seed), -index, size, document))
        total += size
        while is_too_much():
            total -= heapq.heappop(kept)[2]
    return [document for _, _, _, document in sorted(kept, key=lambda item: -item[1])]


def _hash(text: str, seed: int) -> int:
    # The prefix keeps the choice apart from that of held-out documents, which a model may have been selected by.
    salt = f"evaluation {seed}".encode()
    return int.from_bytes(blake2b(text.encode(), digest_size=8, key=salt).digest(), "big")
