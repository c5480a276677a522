"""The documents of a source of any format."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from babyllm.documents import Document
from babyllm.text.readers.archives import read_files
from babyllm.text.readers.formats.document_fields import Fields
from babyllm.text.readers.formats.table import format_of
from babyllm.text.readers.records import ReadConfig, Rejected, Source


def read_source(source: Source, config: ReadConfig, notes: Counter[str] | None = None) -> Iterator[Document | Rejected]:
    """Every record of a file or a piece of one, as a document or as a `Rejected` with the reason.

    Args:
        source: the file, or the piece.
        config: how it is read.
        notes: counter of documents with a noteworthy property, by its description; it is updated.

    Raises:
        UserError: the file cannot be read, or the disk has no room to unpack one.
    """

    def read(file: Source) -> Iterator[Document | Rejected]:
        return format_of(file.format, config).read(file, config, Fields(file, config, notes))

    found = read_files(source, config, read)
    return found if source.documents is None else first_documents(found, source.documents)


def first_documents(found: Iterator[Document | Rejected], n: int) -> Iterator[Document | Rejected]:
    """The items up to and including the n-th document."""
    for item in found:
        yield item
        n -= isinstance(item, Document)
        if not n:
            return
