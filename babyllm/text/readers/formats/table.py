"""The table of formats: how files of each suffix are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from babyllm.documents import Document
from babyllm.text.readers.formats.document_fields import Fields
from babyllm.text.readers.formats.json_values import JSON_SUFFIXES, read_json
from babyllm.text.readers.formats.lines import read_csv
from babyllm.text.readers.formats.pages import read_html, read_text
from babyllm.text.readers.formats.tables import read_arrow, read_corpus, read_parquet
from babyllm.text.readers.formats.text_files import read_text_file, read_txt_lines, read_txt_parts
from babyllm.text.readers.records import ReadConfig, Rejected, Source


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


def _read_warc(source: Source, config: ReadConfig, fields: Fields) -> Iterator[Document | Rejected]:
    from babyllm.text.readers.formats.warc import read_warc  # few inputs hold a web archive

    return read_warc(source, config, fields)


_TEXT, _HTML, _CSV = Format(read_text, is_one_document=True), Format(read_html, is_one_document=True), Format(read_csv)
_JSON, _WARC = Format(read_json, "json lines"), Format(_read_warc)
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
TABLES = (".parquet", ".arrow", ".feather")
"""Formats of columns, which are read from places all over a file."""
ARCHIVES = (".tar", ".zip")
"""Formats of files that hold files."""
READABLE = ", ".join((*(name for name in FORMATS if name != "corpus"), *ARCHIVES))
"""What is told of the formats that are read."""
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2", ".xz": "xz", ".lz4": "lz4"}


def format_of(suffix: str, config: ReadConfig) -> Format:
    """How files with this suffix are read under the settings."""
    return _TXT[config.txt] if suffix == ".txt" else FORMATS[suffix]
