"""What tests put on the disk, and a disk that is full."""

import resource
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from babyllm.documents import Document
from babyllm.store.corpus import Part, write_corpus, write_part


def store_corpus(directory: Path, parts: Sequence[Sequence[Document]]) -> Path:
    """A corpus of these parts, `0.parquet` and so on; returns its directory."""
    directory.mkdir(parents=True, exist_ok=True)
    written = [Part(f"{i}.parquet", write_part(part, directory / f"{i}.parquet")) for i, part in enumerate(parts)]
    write_corpus(directory, written, {"stage": "test"})
    return directory


def corpus_of(directory: Path, texts: Iterable[Document | str], n_parts: int = 3) -> Path:
    """A corpus of texts, which are named by their numbers, in parts of about the same number; returns its directory."""
    rows = [text if isinstance(text, Document) else Document(text, "text", f"{i:03d}") for i, text in enumerate(texts)]
    ends = [number * len(rows) // n_parts for number in range(n_parts + 1)]
    return store_corpus(directory, [rows[ends[i] : ends[i + 1]] for i in range(n_parts)])


@contextmanager
def files_up_to(n_bytes: int) -> Iterator[None]:
    """No file grows beyond so many bytes: a write puts down what has room, and the next one fails."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, limit[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
