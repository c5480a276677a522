"""What readers take and give: the settings, a piece of a file, a document or the reason why there is none.

A record (a JSON object, a row of a table) becomes a document by `Fields`, the same way in every format:

    record -> the first of WAYS whose fields it has -> title, text -> Document(text, domain, id)
                                                     -> BadRecord(reason) -> Rejected
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

from babyllm.text.documents import Document
from babyllm.values import Count

EXCERPT = 200  # characters of a rejected record that are kept

# Where the text is, in the order tried: the fields that are joined, line by line; those with "?" may be absent.
WAYS: tuple[tuple[str, ...], ...] = (
    *(("text",), ("content",), ("raw_content",), ("document",), ("article",), ("body",), ("正文",), ("内容",)),
    ("instruction", "input?", "output"),
    ("instruction", "input?", "context?", "response"),
    ("prompt", "completion"),
    ("prompt", "response"),
    ("query", "response"),
    ("question", "answer"),
    *(("completion",), ("response",), ("output",), ("desc?", "answer")),
    *(("summary?", "sections"), ("paragraphs",), ("段落",)),
)
LISTS = {"sections", "paragraphs", "段落"}  # fields that hold a list of texts, or of records with title and content

TOO_LONG = "longer than read.max_record_bytes"
NO_TEXT = "no field holds text; name it with --read.text"
CUT_OFF = "the file ends within this record"


@dataclass(frozen=True)
class ReadConfig:
    """How raw files become documents.

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
        txt: what a document is in .txt files, the whole file or each line.
        max_record_bytes: longer records are rejected, so that one of them never fills the memory.
    """

    text: str | None = None
    title: str | None = "title"
    domain: str = "auto"
    encoding: str = "auto"
    errors: Literal["strict", "replace"] = "strict"
    txt: Literal["file", "line"] = "file"
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
        start: first byte, or first row group, of the piece.
        end: behind its last; None reads to the end.
        size_bytes: how much work it is.
        stamp: size and time of change of the whole file, by which a changed file is known.
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
    return Rejected(place, str(reason), _mended(text[:EXCERPT]))


class Fields:
    """How the records of one source become documents.

    Args:
        source: gives the domain where no field does.
        config: says which fields are read.
    """

    def __init__(self, source: Source, config: ReadConfig) -> None:
        ways = WAYS if config.text is None else (tuple(config.text.split("+")),)
        self._ways = [[(name.rstrip("?"), name.endswith("?")) for name in way] for way in ways]
        self._title = config.title
        self._domain_field = {"auto": "domain"}.get(config.domain)
        if config.domain.startswith("field:"):
            self._domain_field = config.domain[6:]
        self._domain = source.domain
        self._limit = config.max_record_bytes

    def document(self, record: Any, place: str) -> Document:
        """The document of a record whose id is its place.

        Raises:
            BadRecord: it has no text.
        """
        if not isinstance(record, dict):
            raise BadRecord(f"not an object with fields but {kind_of(record)}")
        text = self._text(record)
        title = _lookup(record, self._title) if self._title else None
        if isinstance(title, str) and title.strip() and not text.lstrip().startswith(title.strip()):
            text = f"{title.strip()}\n{text}"
        domain = _lookup(record, self._domain_field) if self._domain_field else None
        return self.plain(text, place, _mended(str(domain)) if isinstance(domain, (str, int)) else "")

    def plain(self, text: str, place: str, domain: str = "") -> Document:
        """The document of a text; surrogates that stand alone, which are no characters, become U+FFFD.

        Raises:
            BadRecord: it is longer than a record may be.
        """
        text = _mended(text)
        if len(text) > self._limit // 4 and len(text.encode()) > self._limit:
            raise BadRecord(TOO_LONG)
        return Document(text, domain or self._domain, place)

    def columns(self, names: Sequence[str]) -> list[str]:
        """The columns of a table which its documents are made from.

        Raises:
            BadRecord: none holds text.
        """

        def column(name: str) -> str:
            return name if name in names else name.partition(".")[0]

        possible = [way for way in self._ways if all(column(name) in names or is_optional for name, is_optional in way)]
        if not possible:
            raise BadRecord(NO_TEXT)
        wanted = [name for way in possible for name, _ in way]
        wanted += [name for name in (self._title, self._domain_field) if name]
        return [name for name in dict.fromkeys(map(column, wanted)) if name in names]

    def _text(self, record: Mapping[str, Any]) -> str:
        for way in self._ways:
            if len(way) == 1:  # nearly always, so it is spared what follows
                if (value := _lookup(record, way[0][0])) is not None:
                    return _written(way[0][0], value)
                continue
            values = {name: _lookup(record, name) for name, _ in way}
            if all(values[name] is not None or is_optional for name, is_optional in way):
                parts = (_written(name, value) for name, value in values.items() if value is not None)
                return "\n".join(part for part in parts if part.strip())
        raise BadRecord(NO_TEXT)


def _lookup(record: Mapping[str, Any], name: str) -> Any:
    value = record.get(name)
    if value is None and "." in name:
        outer, _, inner = name.partition(".")
        below = record.get(outer)
        return _lookup(below, inner) if isinstance(below, dict) else None
    return value


def _written(name: str, value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise BadRecord("not valid UTF-8") from None
    if name in LISTS and isinstance(value, list):
        return "\n".join(part for part in _flat(value) if part.strip())
    raise BadRecord(f"the field {name} is not text but {kind_of(value)}")


def _flat(items: Iterable[Any]) -> Iterator[str]:
    for item in items:
        if isinstance(item, str):
            yield item
        elif isinstance(item, dict):
            yield from (item[name] for name in ("title", "content", "内容") if isinstance(item.get(name), str))


def kind_of(value: object) -> str:
    """What a value of a record is, in words for people."""
    names = {"NoneType": "null", "bool": "a truth value", "int": "a number", "float": "a number", "str": "a text"}
    return (names | {"list": "a list", "dict": "an object"}).get(type(value).__name__, type(value).__name__)


def _mended(text: str) -> str:
    """A valid Unicode string: JSON can spell surrogates that have no partner."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
