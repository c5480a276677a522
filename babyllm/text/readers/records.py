"""What readers take and return: the settings, a piece of a file, and the reason why a record was rejected."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
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
            null looks for the usual names, such as text, content, completion, instruction + output.
        title: field whose value is put on a line above the text, unless the text begins with it; null for none.
        domain: source of the domain: folder (the first below the given one), file (its name), field:NAME, or a name
            that all documents get; auto takes a field or column named domain if there is one, else the folder, or the
            name of a file that lies in no folder.
        encoding: encoding of text files, such as big5; auto detects it from how common the resulting characters are.
        errors: treatment of bytes that are invalid in the encoding; strict rejects their record, replace puts U+FFFD
            in their place.
        txt: part of a .txt file that becomes a document, the whole file, each line, or the lines up to a blank one.
        separator: text between the documents of a .txt file, such as <|endoftext|>, in which \n is a line break; null
            splits at <|endoftext|> where it stands alone on a line.
        suffix: suffix by which files of other kinds are read, such as .txt; null leaves them out, except that a file
            without suffix whose own path is given is read by its content.
        all: whether files about the data are read too, such as README.md, LICENSE and dataset_infos.json.
        limit: amount to read from all files in order of their names, as a number of documents, 10MB of text, or
            3files; null reads all.
        variant: variant of Chinese that is taken from wiki dumps where they give several.
        columns: names of the columns of CSV and TSV files that have no header, such as id,text.
        max_record_bytes: largest size of a record in bytes; longer ones are rejected, so that none fills the memory.
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
    variant: Literal["zh-hans", "zh-hant", "zh-cn", "zh-sg", "zh-my", "zh-tw", "zh-hk", "zh-mo"] = "zh-hans"
    max_record_bytes: Count = 16 << 20

    def described(self) -> dict[str, Any]:
        """The settings as JSON values by name; those that were added later are there if they are not the default."""
        values = asdict(self)
        if self.variant == "zh-hans":
            del values["variant"]
        return values


@dataclass(frozen=True)
class Source:
    """A file, or a piece of one, that is read from its start to its end.

    Attributes:
        path: path of the file.
        name: path relative to the folder above the given one, with slashes; ids begin with it.
        format: suffix by which it is read, such as ".jsonl"; "corpus" for Parquet files made by babyllm.
        compression: gzip, zstd, bz2, xz or lz4; empty for none.
        domain: domain of its documents, unless a field names one.
        start: first byte of the piece; for Parquet the first row group, for .zip the index of the first file.
        end: end of the piece, exclusive, counted like `start`; None reads to the end.
        size_bytes: size of the piece, by which work is shared out; as stored, for Parquet as unpacked.
        stamp: size in bytes and modification time in nanoseconds of the whole file, which reveal a change.
        documents: largest number of documents to read; None reads all.
        damage: damage at which the content of an archive's file was cut off; None if it is intact.
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
        name: name in the archive, with its folders.
        content: its unpacked bytes; the iterator raises `Damaged` after the last byte that can be read.
        obstacle: reason why it cannot be read; empty if it can.
    """

    name: str
    content: Iterator[bytes]
    obstacle: str


@dataclass(frozen=True)
class Rejected:
    """A record that was not used: a line of `rejected.jsonl`.

    Attributes:
        place: id that its document would have; the file's name if the whole file is meant.
        reason: one of a small number of phrases, so that they can be counted.
        excerpt: beginning of the record.
        line: number of the line at which it begins, from 1; None where lines are not counted.
    """

    place: str
    reason: str
    excerpt: str
    line: int | None = None


class BadRecord(Exception):
    """A record that cannot be read; the message is the reason."""


T = TypeVar("T")
Made = TypeVar("Made", covariant=True)


class Maker(Protocol[Made]):
    """Turns records into documents or something else; every reader of records takes one."""

    def document(self, record: Any, place: str) -> Made:
        """The document, or something else, made of a record; `place` is its id.

        Raises:
            BadRecord: the record cannot be used.
        """

    def columns(self, names: Sequence[str]) -> list[str]:
        """Those of a table's columns that are needed.

        Raises:
            BadRecord: no row can be used.
        """


def rejected(place: str, reason: object, raw: object = "") -> Rejected:
    """The report of a record that was not used; `raw` is the record as it was found."""
    text = raw[: 4 * EXCERPT].decode("utf-8", "replace") if isinstance(raw, bytes) else str(raw)
    return Rejected(place, str(reason), mended(text[:EXCERPT]))


def mended(text: str) -> str:
    """The text as valid Unicode: a lone surrogate, which JSON can spell, becomes U+FFFD."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def accounted(source: Source, found: Iterator[T | Rejected]) -> Iterator[T | Rejected]:
    """The items found in a source, with a `Rejected` if it is empty or ends in damage.

    A missing permission or a failing disk is not a property of the data. The stage stops and keeps nothing of such a
    file, so that the same command reads it once the cause is removed.

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
    """The error for a file that the operating system does not let anybody read."""
    return UserError(
        f"{path}: cannot be read ({error.strerror or error}); fix it or leave it out, and start the same command again"
    )
