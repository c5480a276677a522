"""What readers take and give: the settings, a piece of a file, or the reason why a record is no document."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

from babyllm.config.values import Count
from babyllm.errors import UserError
from babyllm.text.readers.decoding.compressed import Damaged

EXCERPT = 200  # characters of a rejected record that are kept

TOO_LONG = "longer than read.max_record_bytes"
CUT_OFF = "the file ends within this record"


@dataclass(frozen=True)
class ReadConfig:
    r"""How raw files become documents.

    Attributes:
        text: field that holds the text (a.b is field b of field a), or several joined by +, such as question+answer;
            null finds it among the names in use, such as text, content, completion, instruction + output.
        title: field put on a line above the text, where there is one and the text does not begin with it; null for
            none.
        domain: folder (the first below the given one), file (its name), field:NAME, or the name of the domain itself;
            auto takes a field or column named domain where there is one, else the folder, or the name of a file that
            lies in none.
        encoding: of text files, such as big5; auto tells it from how common the characters are that it makes of them.
        errors: what becomes of bytes that are invalid in it; strict rejects their record, replace puts U+FFFD for them.
        txt: what a document is in .txt files, the whole file, each line, or the lines up to a blank one.
        separator: text between the documents of a .txt file, such as <|endoftext|>, in which \n is a line break; null
            finds <|endoftext|> where it stands alone on lines.
        suffix: suffix by which files of other kinds are read, such as .txt; null leaves them out, but reads a file
            without suffix that is named itself by what it holds.
        all: whether files beside the data are read too, such as README.md, LICENSE and dataset_infos.json.
        limit: how much is read, the first of all files in the order of their names: a number of documents, 10MB of
            text, or 3files; null reads all.
        columns: names of the columns of CSV and TSV files that have no header, such as id,text.
        max_record_bytes: longer records are rejected, so that one of them never fills the memory.
    """

    text: str | None = None
    title: str | None = "title"
    domain: str = "auto"
    encoding: str = "auto"
    errors: Literal["strict", "replace"] = "strict"
    txt: Literal["file", "line", "blank"] = "file"
    separator: str | None = None
    suffix: str | None = None
    all: bool = False
    limit: str | None = None
    columns: str | None = None
    max_record_bytes: Count = 16 << 20


@dataclass(frozen=True)
class Source:
    """A file, or a piece of one, that is read from its start to its end.

    Attributes:
        path: of the file.
        name: the same relative to the folder above the given path, with slashes; ids begin with it.
        format: the suffix by which it is read, such as ".jsonl"; "corpus" for Parquet files made by babyllm.
        compression: gzip, zstd, bz2, xz, lz4 or nothing.
        domain: of its documents, unless a field tells.
        start: first byte of the piece; of Parquet the first row group, of .zip the first file.
        end: behind its last; None reads to the end.
        size_bytes: how much work it is.
        stamp: size and time of change of the whole file, by which a changed file is known.
        documents: how many are read at most; None reads all.
        damage: what is wrong with a file of an archive, which ends where it was damaged.
    """

    path: Path
    name: str
    format: str
    compression: str
    domain: str
    start: int
    end: int | None
    size_bytes: int
    stamp: tuple[int, int]
    documents: int | None = None
    damage: Damaged | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Entry:
    """A file of an archive.

    Attributes:
        name: in the archive, with its folders.
        content: its bytes, unpacked; it raises `Damaged` after the last one that can be read.
        obstacle: why it cannot be read; empty if it can.
    """

    name: str
    content: Iterator[bytes]
    obstacle: str


@dataclass(frozen=True)
class Rejected:
    """A record that is no document: a line of `rejected.jsonl`.

    Attributes:
        place: the id that its document would have; the file's name if all of it is meant.
        reason: one of a small number of phrases, so that they can be counted.
        excerpt: how the record begins.
        line: of the file, from 1 on, where it begins; None where lines are not counted.
    """

    place: str
    reason: str
    excerpt: str
    line: int | None = None


class BadRecord(Exception):
    """Why a record cannot be read."""


T = TypeVar("T")
Made = TypeVar("Made", covariant=True)


class Maker(Protocol[Made]):
    """What records are made into, documents or something else: it is given to whatever reads records."""

    def document(self, record: Any, place: str) -> Made:
        """What a record becomes whose id is its place.

        Raises:
            BadRecord: it cannot.
        """

    def columns(self, names: Sequence[str]) -> list[str]:
        """The columns of a table that are needed.

        Raises:
            BadRecord: no row can become anything.
        """


def rejected(place: str, reason: object, raw: object = "") -> Rejected:
    """What is reported of a record; `raw` is the record as it was found."""
    text = raw[: 4 * EXCERPT].decode("utf-8", "replace") if isinstance(raw, bytes) else str(raw)
    return Rejected(place, str(reason), mended(text[:EXCERPT]))


def mended(text: str) -> str:
    """A valid Unicode string: JSON can spell surrogates that have no partner."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def accounted(source: Source, found: Iterator[T | Rejected]) -> Iterator[T | Rejected]:
    """What is found in a source; where it is empty or ends in damage, a `Rejected` says so.

    A file that cannot be read, for want of a permission or a disk that answers, is no property of the data: whatever
    stage reads it stops and keeps nothing of this file, so that the same command reads it when it has been mended.

    Raises:
        UserError: the file cannot be read.
    """
    if not source.stamp[0] and not source.damage and source.path.exists():
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
