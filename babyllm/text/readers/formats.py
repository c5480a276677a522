"""The table of formats, and the one function that reads whatever is in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from babyllm.errors import UserError
from babyllm.text.documents import Document
from babyllm.text.readers.compressed import Damaged
from babyllm.text.readers.json_values import read_json
from babyllm.text.readers.lines import read_csv, read_jsonl, read_txt_lines
from babyllm.text.readers.pages import read_html, read_text
from babyllm.text.readers.parquet import read_arrow, read_corpus, read_parquet
from babyllm.text.readers.records import Fields, ReadConfig, Rejected, Source, T, rejected
from babyllm.text.readers.warc import read_warc


@dataclass(frozen=True)
class Format:
    """How files with a suffix are read.

    Attributes:
        read: gives the documents of a source, made by the fields it is handed.
        pieces: what a large file may be cut at.
        is_one_document: whether a file is a single document.
    """

    read: Callable[[Source, ReadConfig, Fields], Iterator[Document | Rejected]]
    pieces: Literal["", "lines", "row groups"] = ""
    is_one_document: bool = False


_TEXT, _HTML, _CSV = Format(read_text, is_one_document=True), Format(read_html, is_one_document=True), Format(read_csv)
_JSONL, _WARC = Format(read_jsonl, "lines"), Format(read_warc)
FORMATS = {
    **{".jsonl": _JSONL, ".ndjson": _JSONL, ".json": Format(read_json), ".csv": _CSV, ".tsv": _CSV},
    **{".txt": _TEXT, ".md": _TEXT, ".html": _HTML, ".htm": _HTML, ".warc": _WARC, ".wet": _WARC},
    **{".arrow": Format(read_arrow), ".feather": Format(read_arrow)},
    **{".parquet": Format(read_parquet, "row groups"), "corpus": Format(read_corpus, "row groups")},
}
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2", ".xz": "xz", ".lz4": "lz4"}
TXT_LINES = Format(read_txt_lines, "lines")


def format_of(suffix: str, config: ReadConfig) -> Format:
    """How files with this suffix are read under the settings."""
    return TXT_LINES if suffix == ".txt" and config.txt == "line" else FORMATS[suffix]


def read_source(source: Source, config: ReadConfig) -> Iterator[Document | Rejected]:
    """Every record of a file or a piece of one, as a document or with the reason why it is none."""
    read = format_of(source.format, config).read
    return accounted(source, read(source, config, Fields(source, config)))


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
