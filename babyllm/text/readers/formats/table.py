"""The table of formats: how files with each suffix are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

from babyllm.documents import Document
from babyllm.text.readers.formats.document_fields import Fields
from babyllm.text.readers.formats.json_values import JSON_SUFFIXES, read_json
from babyllm.text.readers.formats.lines import read_csv
from babyllm.text.readers.formats.pages import read_html, read_text
from babyllm.text.readers.formats.tables import read_arrow, read_corpus, read_parquet
from babyllm.text.readers.formats.text_files import read_text_file, read_txt_lines, read_txt_parts
from babyllm.text.readers.records import Made, Maker, ReadConfig, Rejected, Source

Pieces = Literal["", "lines", "json lines", "separators", "row groups", "pages"]
"""Boundaries at which a large file may be cut; "json lines" and "separators" only if the file is found to have them.

Pages are found in compressed files too, where each stream of bz2 begins with one.
"""


class RecordReader(Protocol):
    """A reader of a format whose records have named fields; the caller's `make` turns a record into a result."""

    def __call__(self, source: Source, config: ReadConfig, make: Maker[Made], /) -> Iterator[Made | Rejected]:
        """The results for the records of a source, in order."""


@dataclass(frozen=True)
class Format:
    """How files with a suffix are read.

    Attributes:
        read: function that returns the documents of a source, made by the `Fields` passed to it.
        pieces: boundaries at which a large file may be cut.
        is_one_document: whether a file is a single document.
    """

    read: Callable[[Source, ReadConfig, Fields], Iterator[Document | Rejected]]
    pieces: Pieces = ""
    is_one_document: bool = False


def _read_warc(source: Source, config: ReadConfig, fields: Fields) -> Iterator[Document | Rejected]:
    from babyllm.text.readers.formats.warc import read_warc  # few inputs hold a web archive

    return read_warc(source, config, fields)


def _read_wiki(source: Source, config: ReadConfig, fields: Fields) -> Iterator[Document | Rejected]:
    from babyllm.text.readers.formats.wiki_dumps import read_wiki  # few inputs hold a dump of a wiki

    return read_wiki(source, config, fields)


RECORDS: dict[str, RecordReader] = {
    **dict.fromkeys(JSON_SUFFIXES, read_json),
    **dict.fromkeys((".csv", ".tsv"), read_csv),
    ".parquet": read_parquet,
    **dict.fromkeys((".arrow", ".feather"), read_arrow),
}
"""Formats whose records have named fields."""
_PIECES: dict[str, Pieces] = {**dict.fromkeys(JSON_SUFFIXES, "json lines"), ".parquet": "row groups"}
_TEXT, _HTML = Format(read_text, is_one_document=True), Format(read_html, is_one_document=True)
_TXT = {
    "file": Format(read_text_file, "separators", is_one_document=True),
    "line": Format(read_txt_lines, "lines"),
    "blank": Format(read_txt_parts, "lines"),
}
FORMATS = {
    **{suffix: Format(read, _PIECES.get(suffix, "")) for suffix, read in RECORDS.items()},
    **{".txt": _TXT["file"], ".md": _TEXT, ".html": _HTML, ".htm": _HTML},
    **dict.fromkeys((".warc", ".wet"), Format(_read_warc)),
    ".xml": Format(_read_wiki, "pages"),
    "corpus": Format(read_corpus, "row groups"),
}
TABLES = (".parquet", ".arrow", ".feather")
"""Formats of columns, whose readers need random access to the file."""
ARCHIVES = (".tar", ".zip")
"""Formats of files that hold files."""
READABLE = ", ".join((*(name for name in FORMATS if name != "corpus"), *ARCHIVES))
"""The list of formats for messages."""
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2", ".xz": "xz", ".lz4": "lz4"}


def format_of(suffix: str, config: ReadConfig) -> Format:
    """The format of files with this suffix under the settings."""
    return _TXT[config.txt] if suffix == ".txt" else FORMATS[suffix]
