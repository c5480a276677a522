"""The table of formats, and the one function that reads whatever is in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from babyllm.errors import UserError
from babyllm.text.documents import Document
from babyllm.text.readers.compressed import Damaged
from babyllm.text.readers.fields import Fields
from babyllm.text.readers.json_values import JSON_SUFFIXES, read_json
from babyllm.text.readers.lines import read_csv
from babyllm.text.readers.pages import read_html, read_text
from babyllm.text.readers.parquet import read_arrow, read_corpus, read_parquet
from babyllm.text.readers.records import ReadConfig, Rejected, Source, T, rejected
from babyllm.text.readers.text_files import read_text_file, read_txt_lines, read_txt_parts
from babyllm.text.readers.warc import read_warc


@dataclass(frozen=True)
class Format:
    """How files with a suffix are read.

    Attributes:
        read: gives the documents of a source, made by the fields it is handed.
        pieces: what a large file may be cut at; "json lines" where it turns out to have a record per line, "separators"
            where it turns out to have some.
        is_one_document: whether a file is a single document.
    """

    read: Callable[[Source, ReadConfig, Fields], Iterator[Document | Rejected]]
    pieces: Literal["", "lines", "json lines", "separators", "row groups"] = ""
    is_one_document: bool = False


_TEXT, _HTML, _CSV = Format(read_text, is_one_document=True), Format(read_html, is_one_document=True), Format(read_csv)
_JSON, _WARC = Format(read_json, "json lines"), Format(read_warc)
_TXT = {
    "file": Format(read_text_file, "separators", is_one_document=True),
    "line": Format(read_txt_lines, "lines"),
    "blank": Format(read_txt_parts, "lines"),
}
FORMATS = {
    **dict.fromkeys(JSON_SUFFIXES, _JSON),
    **{".csv": _CSV, ".tsv": _CSV},
    **{".txt": _TXT["file"], ".md": _TEXT, ".html": _HTML, ".htm": _HTML, ".warc": _WARC, ".wet": _WARC},
    **{".arrow": Format(read_arrow), ".feather": Format(read_arrow)},
    **{".parquet": Format(read_parquet, "row groups"), "corpus": Format(read_corpus, "row groups")},
}
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2", ".xz": "xz", ".lz4": "lz4"}


def format_of(suffix: str, config: ReadConfig) -> Format:
    """How files with this suffix are read under the settings."""
    return _TXT[config.txt] if suffix == ".txt" else FORMATS[suffix]


def read_source(source: Source, config: ReadConfig, notes: Counter[str] | None = None) -> Iterator[Document | Rejected]:
    """Every record of a file or a piece of one, as a document or with the reason why it is none.

    Args:
        source: the file, or the piece.
        config: how it is read.
        notes: counts documents of which something is worth telling, by what that is.
    """
    read = format_of(source.format, config).read
    found = accounted(source, read(source, config, Fields(source, config, notes)))
    return found if source.documents is None else first_documents(found, source.documents)


def first_documents(found: Iterator[Document | Rejected], n: int) -> Iterator[Document | Rejected]:
    """What is found up to the n-th document."""
    for item in found:
        yield item
        n -= isinstance(item, Document)
        if not n:
            return


def accounted(source: Source, found: Iterator[T | Rejected]) -> Iterator[T | Rejected]:
    """What is found in a source; where it is empty or ends in damage, a `Rejected` says so.

    A file that cannot be read, for want of a permission or a disk that answers, is no property of the data: whatever
    stage reads it stops and keeps nothing of this file, so that the same command reads it when it has been mended.

    Raises:
        UserError: the file cannot be read.
    """
    if not source.stamp[0] and source.path.exists():
        yield rejected(source.name, "the file is empty")
        return
    is_empty = source.end is None and source.format != "corpus"
    try:
        for item in found:
            is_empty = False
            yield item
    except Damaged as error:
        yield rejected(source.name, error.reason, error)
    except OSError as error:
        raise unreadable(source.path, error) from error
    else:
        if is_empty:
            yield rejected(source.name, "the file holds no records")


def unreadable(path: Path, error: OSError) -> UserError:
    """What the user is told of a file that the system does not let anybody read."""
    return UserError(
        f"{path}: cannot be read ({error.strerror or error}); mend it or leave it out, and start the same command again"
    )
