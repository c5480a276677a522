"""A corpus on disk: Parquet files of documents, described by `corpus.json`.

documents -> write_part -> *.parquet -> write_corpus -> corpus.json (written last: the commit mark)
directory -> open_corpus -> Corpus -> documents, a part at a time

Each row is a document: id, domain, text, and url in files of which a document has one. Whatever reads Parquet reads a
corpus.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa

from babyllm.documents import Document
from babyllm.errors import UserError
from babyllm.files import begins_with, fsync, read_sealed_json, write_sealed_json
from babyllm.integrity import digests, require_whole
from babyllm.store.parquet import FAULTS, open_parquet, parquet_writer

FORMAT_VERSION = 1
MANIFEST = "corpus.json"
_BEGINNING = re.compile(rb'\s*\{\s*("version":\s*\d+,\s*"parts":|\Z)')
# Small enough that cores share even one file evenly, and that a reader needs little memory.
ROW_GROUP_CHARACTERS = 1 << 19
PART_MARK = b"babyllm.corpus"
"""A key in the metadata of each part, by which it is known where `corpus.json` is gone."""
SCHEMA = pa.schema(
    [("id", pa.string()), ("domain", pa.string()), ("text", pa.large_string())],
    metadata={PART_MARK: str(FORMAT_VERSION)},
)
URL_SCHEMA = SCHEMA.append(pa.field("url", pa.string()))
COLUMNS = ["text", "domain", "id", "url"]
"""What a document is made of, in its own order; a part whose documents have no URLs lacks the last column."""


@dataclass(frozen=True)
class Count:
    """How much text: documents, characters (code points) and UTF-8 bytes."""

    documents: int = 0
    characters: int = 0
    bytes: int = 0

    def __add__(self, other: Count) -> Count:
        return Count(self.documents + other.documents, self.characters + other.characters, self.bytes + other.bytes)


@dataclass(frozen=True)
class Part:
    """One Parquet file of a corpus.

    Attributes:
        file: name, relative to the corpus.
        domains: what it holds of each domain.
        sha256: of the file, in hexadecimal; empty until it belongs to a corpus.
    """

    file: str
    domains: dict[str, Count]
    sha256: str = ""


@dataclass(frozen=True)
class Corpus:
    """A directory of documents that has been checked.

    Attributes:
        directory: of `corpus.json`.
        parts: its files, in their order.
        about: how it was made: the stage and its configuration, as JSON values.
    """

    directory: Path
    parts: tuple[Part, ...]
    about: dict[str, Any]

    def domains(self) -> dict[str, Count]:
        """What the corpus holds of each domain, sorted by name."""
        total: dict[str, Count] = {}
        for part in self.parts:
            for domain, count in part.domains.items():
                total[domain] = total.get(domain, Count()) + count
        return dict(sorted(total.items()))

    def documents(self) -> Iterator[Document]:
        """Every document, in order."""
        for part in self.parts:
            yield from read_part(self.directory / part.file)


@dataclass(frozen=True)
class RowGroups:
    """Successive row groups of one file of a corpus.

    Attributes:
        path: of the file.
        begin: the first row group.
        end: the one after the last.
        n: documents.
        size_bytes: memory that their columns take.
    """

    path: Path
    begin: int
    end: int
    n: int
    size_bytes: int


def row_groups(path: Path, at_most_bytes: int) -> Iterator[RowGroups]:
    """A file of a corpus in runs of row groups that take at most so many bytes, or of one row group.

    Raises:
        UserError: the file is damaged.
    """
    with _opened(path) as file:
        metadata = file.metadata
    first = n = size = 0
    for i in range(metadata.num_row_groups):
        group = metadata.row_group(i)
        if n and size + group.total_byte_size > at_most_bytes:
            yield RowGroups(path, first, i, n, size)
            first, n, size = i, 0, 0
        n, size = n + group.num_rows, size + group.total_byte_size
    if n:
        yield RowGroups(path, first, metadata.num_row_groups, n, size)


def read_rows(
    path: Path, columns: Sequence[str] = COLUMNS, groups: range | None = None, batch_rows: int = 2048
) -> Iterator[pa.RecordBatch]:
    """Rows of a file of a corpus in their order, some thousands in memory at a time.

    Args:
        path: of the file.
        columns: names of the columns; those that the file lacks are left out.
        groups: numbers of the row groups; None reads all.
        batch_rows: rows of a batch, at most.

    Raises:
        UserError: the file is damaged.
    """
    with _opened(path) as file:
        chosen = range(file.metadata.num_row_groups) if groups is None else groups
        yield from file.iter_batches(batch_rows, row_groups=chosen, columns=list(columns), use_threads=False)


def read_part(path: Path) -> Iterator[Document]:
    """The documents of a file of a corpus.

    Raises:
        UserError: the file is damaged.
    """
    for batch in read_rows(path):
        yield from documents_in(batch)


def schema_of(path: Path) -> pa.Schema:
    """The columns that a part has.

    Raises:
        UserError: the file is damaged.
    """
    with _opened(path) as file:
        return URL_SCHEMA if "url" in file.schema_arrow.names else SCHEMA


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with open_parquet(path) as file:
            yield file
    except FAULTS as error:
        raise UserError(f"{path}: cannot be read ({error}); make the corpus anew") from error


def documents_in(rows: pa.RecordBatch | pa.Table) -> Iterator[Document]:
    """The documents that rows of a part are."""
    columns = [rows.column(name).to_pylist() for name in COLUMNS if name in rows.schema.names]
    for text, domain, place, *url in zip(*columns, strict=True):
        yield Document(text, domain, place, (url[0] if url else "") or "")


def write_part(documents: Iterable[Document], path: Path) -> dict[str, Count]:
    """Write documents to one Parquet file (zstd), in bounded memory; what it holds of each domain is returned."""
    domains: dict[str, Count] = {}
    groups = _grouped(documents, domains)
    if with_url := _write_until_url(groups, path):
        earlier = path.with_name(f".{path.name}.tmp")
        os.replace(path, earlier)
        with open_parquet(earlier) as before, parquet_writer(path, URL_SCHEMA) as file:
            for i in range(before.num_row_groups):
                rows = before.read_row_group(i)
                file.write_table(rows.append_column("url", pa.nulls(len(rows), pa.string())).cast(URL_SCHEMA))
            for group in chain((with_url,), groups):
                _write_rows(file, group, URL_SCHEMA)
        earlier.unlink()
    fsync(path)
    return domains


def _grouped(documents: Iterable[Document], domains: dict[str, Count]) -> Iterator[list[Document]]:
    """The documents of each row group, the last one perhaps empty; what they are is added to `domains`."""
    rows: list[Document] = []
    n_characters = 0
    for document in documents:
        rows.append(document)
        n_characters += len(document.text)
        if n_characters >= ROW_GROUP_CHARACTERS:
            add_counts(domains, rows)
            yield rows
            rows, n_characters = [], 0
    add_counts(domains, rows)
    yield rows


def add_counts(domains: dict[str, Count], documents: Iterable[Document]) -> None:
    """Add what some documents are to the counts of their domains."""
    sums: dict[str, list[int]] = {}
    for document in documents:
        total = sums.setdefault(document.domain, [0, 0, 0])
        total[0] += 1
        total[1] += len(document.text)
        total[2] += len(document.text.encode())
    for domain, total in sums.items():
        domains[domain] = domains.get(domain, Count()) + Count(*total)


def _write_until_url(groups: Iterator[list[Document]], path: Path) -> list[Document]:
    """Write row groups without URLs; the first one with a URL, which needs another schema, is returned unwritten."""
    with parquet_writer(path, SCHEMA) as file:
        for rows in groups:
            if any(row.url for row in rows):
                return rows
            _write_rows(file, rows, SCHEMA)
    return []


def _write_rows(file: Any, rows: list[Document], schema: pa.Schema) -> None:
    columns = {name: [getattr(row, name) for row in rows] for name in schema.names}
    if "url" in columns:
        columns["url"] = [url or None for url in columns["url"]]
    file.write_table(pa.table(columns, schema=schema))


def write_corpus(directory: Path, parts: Iterable[Part], about: dict[str, Any]) -> Corpus:
    """Declare the files of a directory a corpus."""
    parts = tuple(parts)
    sha256 = digests(directory, (part.file for part in parts))
    corpus = Corpus(directory, tuple(replace(part, sha256=sha256[part.file]) for part in parts), about)
    value = {"version": FORMAT_VERSION, "parts": [asdict(part) for part in corpus.parts], "about": about}
    write_sealed_json(directory / MANIFEST, value)
    return corpus


def is_corpus(directory: Path) -> bool:
    """Whether a directory holds a finished corpus: its description begins like one, though it be damaged later on."""
    return begins_with(directory / MANIFEST, _BEGINNING)


def about_corpus(directory: Path) -> dict[str, Any] | None:
    """What the corpus in a directory was made with, as JSON values; None if there is no corpus.

    Raises:
        UserError: A file of the corpus is missing or damaged.
    """
    return open_corpus(directory).about if is_corpus(directory) else None


def open_corpus(directory: Path, *, verify: bool = False) -> Corpus:
    """The corpus in a directory; each file of it is read through once, and its sha256 remembered.

    Args:
        directory: of the corpus.
        verify: read all files again, remembered or not.

    Raises:
        UserError: there is none, or a file it names is missing or damaged.
    """
    path = directory / MANIFEST
    try:
        raw = read_sealed_json(path)
        if raw["version"] != FORMAT_VERSION:
            raise UserError(f"{path}: format version {raw['version']}, this babyllm reads {FORMAT_VERSION}")
        parts = tuple(
            Part(p["file"], {name: Count(**count) for name, count in p["domains"].items()}, p.get("sha256", ""))
            for p in raw["parts"]
        )
        corpus = Corpus(directory, parts, raw["about"])
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(
            f"{directory}: holds no {MANIFEST}, so it is no corpus or was never finished; give a directory that "
            "`babyllm clean` or `dedup` has made"
        ) from error
    except PermissionError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); mend its permissions") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a description of a corpus ({error}); make the corpus anew") from error
    for part in parts:
        if not (directory / part.file).is_file():
            raise UserError(f"{directory / part.file}: missing, though {MANIFEST} names it; make the corpus anew")
    require_whole(directory, {part.file: part.sha256 for part in parts}, "make the corpus anew", again=verify)
    return corpus
