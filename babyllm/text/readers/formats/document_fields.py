"""How a record (a JSON object or a row of a table) becomes a document, in the same way for every format.

record -> its shape: the fields there are -> the first of WAYS that holds text -> title, text
                                          -> domain, address -> Document
                                          -> BadRecord(reason) -> Rejected
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from babyllm.config.json_fields import kind_of
from babyllm.documents import Document
from babyllm.text.readers.decoding.encodings import text_of
from babyllm.text.readers.records import TOO_LONG, BadRecord, ReadConfig, Source, mended

# Fields that may hold the text, in the order tried; several are joined by line breaks, those with "?" may be absent.
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
    *(("zh_text", "en_text"), ("zh", "en"), ("chinese", "english"), ("中文", "英文"), ("translation",)),
)
# Fields that hold several texts: a list of texts or of records with some of PARTS, or one text per language.
LISTS = {"sections", "paragraphs", "段落", "translation"}
PARTS = ("title", "content", "内容", "value", "text", "zh_text", "en_text")
# Fields that may hold the URL of a document, in the order tried.
URLS = ("url", "source_url", "link", "uri", "WARC-Target-URI", "metadata.url", "meta.url")
ADDRESS = re.compile(r"\s*[A-Za-z][A-Za-z0-9+.-]*://\S")

NO_TEXT = "no field holds text; name it with --read.text"
NO_HEADER = ", or if the first row names no columns, do so with --read.columns"
TURN = {"role": "", "from": ""}  # every turn of a conversation has one of these fields
TURNS = (("role", "content"), ("from", "value"))
CONVERSATIONS = ("messages", "conversations", "conversation")  # columns that hold lists of turns
MAX_SHAPES, MAX_FIELDS = 256, 64  # shapes that are remembered, and fields of such a shape
MAX_DEPTH = 4  # levels of nested lists of texts
SURROUNDING = " \t\r\n\u3000\ufeff"


@dataclass(frozen=True)
class _Way:
    """Fields of a record that make up its text.

    Attributes:
        fields: names in the record, each with whether it may be absent.
        alike: name that was looked for, if the record spells it differently (case, blanks).
    """

    fields: tuple[tuple[str, bool], ...]
    alike: str = ""


@dataclass(frozen=True)
class _Shape:
    """The fields to read from records with the same fields, by their names in the records.

    Nearly always the text is the value of the field `first`. A turn of a conversation (`is_turn`) is not read.
    """

    first: str
    ways: tuple[_Way, ...]
    title: str
    domain: str
    urls: tuple[str, ...]
    is_turn: bool


class Fields:
    """Turns the records of one source into documents.

    Args:
        source: file whose domain is used where no field names one.
        config: settings, which say which fields are read.
        notes: counter of documents with a noteworthy property, by its description; it is updated.
    """

    def __init__(self, source: Source, config: ReadConfig, notes: Counter[str] | None = None) -> None:
        ways = WAYS if config.text is None else (tuple(config.text.split("+")),)
        self._ways = [[(name.rstrip("?"), name.endswith("?")) for name in way] for way in ways]
        self._lists = LISTS if config.text is None else LISTS | set(config.text.split("+"))
        self._title = config.title or ""
        self._domain_field = {"auto": "domain"}.get(config.domain, "")
        if config.domain.startswith("field:"):
            self._domain_field = config.domain[6:]
        self._domain, self._format = source.domain, source.format
        self._config = config
        self._notes = Counter[str]() if notes is None else notes
        self._shapes: dict[tuple[str, ...], _Shape] = {}

    def document(self, record: Any, place: str) -> Document:
        """The document of a record; `place` is its id.

        Raises:
            BadRecord: the record has no text, is a turn of a conversation, or is too long.
        """
        if not isinstance(record, dict):
            raise BadRecord(_conversation("", record) or f"not an object with fields but {kind_of(record)}")
        shape = self._shape(tuple(record))
        if shape.is_turn:
            raise BadRecord(_conversation("", [record]))
        text = record.get(shape.first)
        if not isinstance(text, str) or not text or text.isspace():
            text = self._text(record, shape)
        title = lookup(record, shape.title) if shape.title else None
        if isinstance(title, str) and title.strip() and not text.lstrip().startswith(title.strip()):
            text = f"{title.strip()}\n{text}"
        domain = self._domain_of(record, shape) if self._domain_field else ""
        return self.plain(text, place, domain, _address(record, shape.urls) if shape.urls else "")

    def plain(self, text: str, place: str, domain: str = "", url: str = "") -> Document:
        """The document of a text; lone surrogates, which are not characters, become U+FFFD.

        Raises:
            BadRecord: the text is longer than a record may be.
        """
        text, limit = mended(text), self._config.max_record_bytes
        if len(text) > limit // 4 and len(text.encode()) > limit:
            raise BadRecord(TOO_LONG)
        return Document(text, domain or self._domain, place, mended(url))

    def note(self, what: str) -> None:
        """Count a record with a noteworthy property, which the report names."""
        self._notes[what] += 1

    def columns(self, names: Sequence[str]) -> list[str]:
        """The columns of a table from which its documents are made.

        Raises:
            BadRecord: no column can hold the text.
        """
        shape = self._shape(tuple(names))
        if not shape.ways:
            is_csv = self._format in (".csv", ".tsv") and self._config.columns is None
            reason = self._no_text({name: [TURN] for name in names if name in CONVERSATIONS})
            raise BadRecord(reason + NO_HEADER * (is_csv and reason == NO_TEXT))
        wanted = [name for way in shape.ways for name, _ in way.fields]
        wanted += [shape.title, shape.domain, *shape.urls]
        columns = (name if name in names else name.partition(".")[0] for name in wanted)
        return [name for name in dict.fromkeys(columns) if name in names]

    def _shape(self, names: tuple[str, ...]) -> _Shape:
        shape = self._shapes.get(names)
        if shape is None:
            shape = self._shape_of(names)
            if len(names) <= MAX_FIELDS:
                if len(self._shapes) >= MAX_SHAPES:
                    self._shapes.clear()
                self._shapes[names] = shape
        return shape

    def _shape_of(self, names: tuple[str, ...]) -> _Shape:
        there = Names(names)
        ways = [_Way(tuple(way)) for way in self._ways if all(there.has(name) or absent for name, absent in way)]
        ways += [
            _Way(tuple((there.alike(name), absent) for name, absent in way), "+".join(name for name, _ in way))
            for way in self._ways
            if _Way(tuple(way)) not in ways and all(there.alike(name) or absent for name, absent in way)
        ]
        first = ways[0].fields[0][0] if ways and len(ways[0].fields) == 1 and not ways[0].alike else ""
        urls = dict.fromkeys(filter(None, map(there.alike, URLS)))
        is_turn = self._config.text is None and any(set(turn) <= set(names) for turn in TURNS)
        title, domain = there.alike(self._title), there.alike(self._domain_field)
        return _Shape(first, tuple(ways), title, domain, tuple(urls), is_turn)

    def _text(self, record: Mapping[str, Any], shape: _Shape) -> str:
        blank, fault = None, None
        for way in shape.ways:
            try:
                text = self._joined(record, way)
            except BadRecord as error:
                fault = fault or error
                continue
            if text and not text.isspace():
                if way.alike:
                    self._notes[f"{way.alike} read from {'+'.join(name for name, _ in way.fields if name)}"] += 1
                return text
            blank = text if blank is None else blank
        if blank is None:
            raise fault or BadRecord(self._no_text(record))
        return blank

    def _joined(self, record: Mapping[str, Any], way: _Way) -> str | None:
        """The text of the fields; None if one of them is missing or a list has no text."""
        if len(way.fields) == 1:
            value = lookup(record, name := way.fields[0][0])
            return value if value is None else self._written(name, value)
        values = [(name, lookup(record, name), absent) for name, absent in way.fields if name]
        if any(value is None and not absent for _, value, absent in values):
            return None
        parts = [self._written(name, value) for name, value, _ in values if value is not None]
        text = "\n".join(part for part in parts if part and part.strip())
        return None if not text and None in parts else text

    def _written(self, name: str, value: Any) -> str | None:
        """A value as text; None for a list without text."""
        if isinstance(value, str):
            return value
        if isinstance(value, bytes):
            return text_of(value, "utf-8", self._config.errors)
        if name.strip(SURROUNDING).casefold() in self._lists or name in self._lists:
            found = list(value.values()) if isinstance(value, dict) else value
            if isinstance(found, list):
                return "\n".join(part for part in _flat(found) if part.strip()) or None
        raise BadRecord(_conversation(name, value) or f"the field {name} is not text but {kind_of(value)}")

    def _domain_of(self, record: Mapping[str, Any], shape: _Shape) -> str:
        domain = lookup(record, shape.domain) if shape.domain else None
        if isinstance(domain, (str, int)):
            return mended(str(domain))
        if self._config.domain.startswith("field:"):
            self._notes[f"no field {self._domain_field} names the domain"] += 1
        return ""

    def _no_text(self, record: Mapping[str, Any]) -> str:
        if self._config.text is not None:
            return f"--read.text={self._config.text}: no field of this name holds text"
        return next(filter(None, (_conversation(*item) for item in record.items())), NO_TEXT)


class Names:
    """The names of the fields of records, for exact look-ups and ones that ignore case and blanks."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = frozenset(names)
        self._alike: dict[str, str] = {}
        for name in names:
            self._alike.setdefault(name.strip(SURROUNDING).casefold(), name)

    def has(self, name: str) -> bool:
        """Whether records have a field of exactly this name."""
        return name in self._names or name.partition(".")[0] in self._names

    def alike(self, name: str) -> str:
        """The field's name in the records, which may differ in case and blanks; empty if they lack it."""
        if not name or self.has(name):
            return name
        outer, dot, inner = name.partition(".")
        if (found := self._alike.get(name.casefold())) is not None:
            return found
        found = self._alike.get(outer.casefold())
        return f"{found}.{inner}" if found is not None and dot else ""


def lookup(record: Mapping[str, Any], name: str) -> Any:
    """The value of a field of a record, or of a nested field such as a.b; None if there is none."""
    value = record.get(name)
    if value is None and "." in name:
        outer, _, inner = name.partition(".")
        below = record.get(outer)
        return lookup(below, inner) if isinstance(below, dict) else None
    return value


def _address(record: Mapping[str, Any], names: Sequence[str]) -> str:
    for name in names:
        value = lookup(record, name)
        if isinstance(value, str) and ADDRESS.match(value):
            return value.strip()
    return ""


def _flat(items: Sequence[Any], depth: int = 0) -> Iterator[str]:
    """The texts in a list."""
    for item in items:
        if isinstance(item, str):
            yield item
        elif isinstance(item, list) and depth < MAX_DEPTH:
            yield from _flat(item, depth + 1)
        elif isinstance(item, dict) and depth < MAX_DEPTH:
            yield from _flat([item[name] for name in PARTS if name in item], depth + 1)


def _conversation(name: str, value: Any) -> str:
    """The reason to reject a value that is a conversation; empty for other values."""
    if not (isinstance(value, list) and value and isinstance(value[0], dict) and TURN.keys() & value[0].keys()):
        return ""
    hint = f"; --read.text={name} reads what is said in it" if name else ""
    return (
        f"a conversation, which train_sft.py takes with --data.path, and other commands with --kind=conversations{hint}"
    )
