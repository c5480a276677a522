"""A corpus on disk: Parquet files of documents, described by `corpus.json`.

documents -> write_part -> *.parquet -> write_corpus -> corpus.json (written last: the commit mark)
directory -> open_corpus -> Corpus -> documents, a file at a time

Each row is a document: id, domain and text, and url in files where any document has one. Any program that reads Parquet
can read a corpus.
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
# Small enough that cores share even one file evenly, and that reading needs little memory.
ROW_GROUP_CHARACTERS = 1 << 19
PART_MARK = b"babyllm.corpus"
"""A key in the metadata of each file, which identifies it as part of a corpus without `corpus.json`."""
SCHEMA = pa.schema(
    [("id", pa.string()), ("domain", pa.string()), ("text", pa.large_string())],
    metadata={PART_MARK: str(FORMAT_VERSION)},
)
URL_SCHEMA = SCHEMA.append(pa.field("url", pa.string()))
COLUMNS = ["text", "domain", "id", "url"]
"""The columns in the order of the fields of `Document`; a file whose documents have no URLs lacks the last one."""


@dataclass(frozen=True)
class Count:
    """The amount of text: documents, characters (code points) and UTF-8 bytes."""

    documents: int = 0
    characters: int = 0
    bytes: int = 0

    def __add__(self, other: Count) -> Count:
        return Count(self.documents + other.documents, self.characters + other.characters, self.bytes + other.bytes)


@dataclass(frozen=True)
class Part:
    """One Parquet file of a corpus.

    Attributes:
        file: path of the file, relative to the corpus.
        domains: amount of text of each domain.
        sha256: sha256 of the file, in hexadecimal; empty until the file belongs to a corpus.
    """

    file: str
    domains: dict[str, Count]
    sha256: str = ""


@dataclass(frozen=True)
class Corpus:
    """A directory of documents that has been checked.

    Attributes:
        directory: directory of `corpus.json`.
        parts: files of the corpus, in order.
        about: origin of the corpus as JSON values: the command and its configuration.
    """

    directory: Path
    parts: tuple[Part, ...]
    about: dict[str, Any]

    def domains(self) -> dict[str, Count]:
        """The amount of text of each domain, sorted by name."""
        total: dict[str, Count] = {}
        for part in self.parts:
            for domain, count in part.domains.items():
                total[domain] = total.get(domain, Count()) + count
        return dict(sorted(total.items()))

    def documents(self) -> Iterator[Document]:
        """Every document, in order.

        Raises:
            UserError: a file is damaged.
        """
        for part in self.parts:
            yield from read_part(self.directory / part.file)


@dataclass(frozen=True)
class RowGroups:
    """Successive row groups of one file of a corpus.

    Attributes:
        path: path of the file.
        begin: index of the first row group.
        end: index after the last row group.
        n: number of documents.
        size_bytes: uncompressed size of their columns, in bytes.
    """

    path: Path
    begin: int
    end: int
    n: int
    size_bytes: int


def row_groups(path: Path, at_most_bytes: int) -> Iterator[RowGroups]:
    """The row groups of a file of a corpus, in runs of at most `at_most_bytes`; a larger row group is a run of its own.

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
    """The rows of a file of a corpus in order, one batch in memory at a time.

    Args:
        path: path of the file.
        columns: names of the columns; those that the file lacks are left out.
        groups: indices of the row groups; None reads all.
        batch_rows: largest number of rows in a batch.

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
    """The schema of a file of a corpus: with the column url or without.

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
        raise UserError(f"{path}: cannot be read ({error}); rebuild the corpus") from error


def documents_in(rows: pa.RecordBatch | pa.Table) -> Iterator[Document]:
    """The documents in rows of a file of a corpus."""
    columns = [rows.column(name).to_pylist() for name in COLUMNS if name in rows.schema.names]
    for text, domain, place, *url in zip(*columns, strict=True):
        yield Document(text, domain, place, (url[0] if url else "") or "")


def write_part(documents: Iterable[Document], path: Path) -> dict[str, Count]:
    """Write documents to one Parquet file (zstd) in bounded memory; returns the amount of text of each domain."""
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
    """The documents of each row group, the last possibly empty; adds the amounts of text to `domains`."""
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
    """Add documents to the counts of their domains."""
    sums: dict[str, list[int]] = {}
    for document in documents:
        total = sums.setdefault(document.domain, [0, 0, 0])
        total[0] += 1
        total[1] += len(document.text)
        total[2] += len(document.text.encode())
    for domain, total in sums.items():
        domains[domain] = domains.get(domain, Count()) + Count(*total)


def _write_until_url(groups: Iterator[list[Document]], path: Path) -> list[Document]:
    """Write row groups up to the first one with a URL; returns that one, which needs another schema."""
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
    """Make the files of a directory a corpus: write their checksums and sizes to `corpus.json`.

    Raises:
        UserError: a file cannot be read.
    """
    parts = tuple(parts)
    sha256 = digests(directory, (part.file for part in parts))
    corpus = Corpus(directory, tuple(replace(part, sha256=sha256[part.file]) for part in parts), about)
    value = {"version": FORMAT_VERSION, "parts": [asdict(part) for part in corpus.parts], "about": about}
    write_sealed_json(directory / MANIFEST, value)
    return corpus


def is_corpus(directory: Path) -> bool:
    """Whether a directory holds a finished corpus, damaged or not: only the start of its `corpus.json` is read."""
    return begins_with(directory / MANIFEST, _BEGINNING)


def about_corpus(directory: Path) -> dict[str, Any] | None:
    """What the corpus in a directory was made with, as JSON values; None if there is no corpus.

    Raises:
        UserError: a file of the corpus is missing or damaged.
    """
    return open_corpus(directory).about if is_corpus(directory) else None


def open_corpus(directory: Path, *, verify: bool = False) -> Corpus:
    """The corpus in a directory; the sha256 of each file is verified once and then recorded.

    Args:
        directory: directory of the corpus.
        verify: whether to verify all files again, recorded or not.

    Raises:
        UserError: there is no corpus, or one of its files is missing or damaged.
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
            f"{directory}: holds no {MANIFEST}, so it is not a corpus or was never finished; give a directory that "
            "`babyllm clean` or `dedup` has made"
        ) from error
    except PermissionError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); mend its permissions") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a description of a corpus ({error}); rebuild the corpus") from error
    for part in parts:
        if not (directory / part.file).is_file():
            raise UserError(f"{directory / part.file}: missing, though {MANIFEST} names it; rebuild the corpus")
    require_whole(directory, {part.file: part.sha256 for part in parts}, "rebuild the corpus", again=verify)
    return corpus
