"""Files with a record per line: JSON lines, and tables in CSV and TSV."""

from __future__ import annotations

import csv
import json
import re
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

from babyllm.text.readers.decoding.encodings import text_of
from babyllm.text.readers.decoding.streams import lines
from babyllm.text.readers.records import EXCERPT, TOO_LONG, BadRecord, Maker, ReadConfig, Rejected, Source, T, rejected

# What may surround a JSON value: blanks, byte order marks, record separators (RFC 7464) and NULs left by a crash.
AROUND = " \t\r\n\ufeff\x1e\0"
BETWEEN = re.compile(rf"[{AROUND},]*")
DECODER = json.JSONDecoder(strict=False)  # accepts control characters that JSON requires to be escaped


def read_jsonl(source: Source, config: ReadConfig, make: Maker[T]) -> Iterator[T | Rejected]:
    """The results for a file with one or more JSON objects per line; commas between them are ignored."""
    encoding, found = lines(source, config)
    for offset, line, is_long in found:
        place, text, end = f"{source.name}:{offset}", "", 0
        try:
            if is_long:
                raise BadRecord(TOO_LONG)
            text = text_of(line, encoding, config.errors)
            value, first_end = decoded(text, 0)
            if first_end < len(text):
                _check_next(text, first_end)
                end = first_end
            yield make.document(value, place)
        except BadRecord as error:
            if line.strip():
                yield rejected(place, error, line)
        if end:
            yield from _further(text, end, source.name, offset, encoding, make)


def _further(text: str, end: int, name: str, offset: int, encoding: str, make: Maker[T]) -> Iterator[T | Rejected]:
    """The results for the values after the first one of a line that begins at byte `offset`."""
    counted = 0
    while end and (start := after(text, end)) < len(text):
        offset, counted = offset + len(text[counted:start].encode(encoding)), start
        place = f"{name}:{offset}"
        try:
            value, end = value_in(text, start)
            yield make.document(value, place)
        except BadRecord as error:
            end = end if end > start else 0
            yield rejected(place, error, text[start : start + EXCERPT])


def parsed(raw: bytes, encoding: str = "utf-8", errors: str = "strict") -> Any:
    """The value of a JSON text; if a key occurs twice, the last value counts.

    Raises:
        BadRecord: the text is not JSON, or is invalid in the encoding.
    """
    text = text_of(raw, encoding, errors)
    value, end = value_in(text, 0)
    if after(text, end) < len(text):
        raise BadRecord("not JSON: Extra data")
    return value


def value_in(text: str, start: int) -> tuple[Any, int]:
    """The JSON value that begins at index `start` of a line, and the index at which it ends.

    Raises:
        BadRecord: it is not JSON, or something other than a value follows.
    """
    value, end = decoded(text, start)
    _check_next(text, end)
    return value, end


def _check_next(text: str, end: int) -> None:
    start = after(text, end)
    if text[start : start + 1] not in ("", "{", "["):
        raise BadRecord("not JSON: Extra data")


def decoded(text: str, start: int) -> tuple[Any, int]:
    """The JSON value that begins at index `start`, and the index at which it ends, whatever follows.

    Raises:
        BadRecord: it is not JSON.
    """
    try:
        if text[start : start + 1] != "{":
            start += len(text) - start - len(text[start:].lstrip(AROUND))
        return DECODER.raw_decode(text, start)
    except json.JSONDecodeError as error:
        raise BadRecord(f"not JSON: {error.msg}") from None
    except RecursionError:
        raise BadRecord("not JSON: nested too deeply") from None
    except ValueError:
        raise BadRecord("not JSON: a number too long") from None


def after(text: str, end: int) -> int:
    """The index at which the value after the one that ends at `end` begins, or the length of the text."""
    between = BETWEEN.match(text, end)
    assert between
    return between.end()


# ---- tables

SEPARATOR_LINE = re.compile(r'"?sep=(.)"?', re.IGNORECASE)  # a first line that names the separator to Excel
QUOTED = re.compile(r'"[^"]*"')


class _Feed:
    """Lines for a CSV reader; those of the current row can be returned again if they do not form a row."""

    def __init__(self, found: Iterator[tuple[int, bytes, bool]], encoding: str, config: ReadConfig) -> None:
        self._found, self._encoding, self._errors = found, encoding, config.errors
        self._limit = config.max_record_bytes
        self._again: deque[tuple[int, bytes, bool]] = deque()
        self.row: list[tuple[int, bytes, bool]] = []
        self._size = 0

    def __iter__(self) -> _Feed:
        return self

    def __next__(self) -> str:
        line = self._again.popleft() if self._again else next(self._found)
        self.row.append(line)
        self._size += len(line[1]) + 1
        if line[2] or self._size > self._limit + 1:
            raise BadRecord(TOO_LONG)
        return self.text(line[1]) + "\n"

    def begin(self) -> None:
        """Forget the lines of the last row."""
        self.row, self._size = [], 0

    def give_back(self, first: int = 1) -> None:
        """Return the lines of the row again, from index `first` on, so that a lone quotation mark costs one line."""
        self._again.extendleft(reversed(self.row[first:]))

    def text(self, line: bytes) -> str:
        """The text of a line.

        Raises:
            BadRecord: the line is invalid in the encoding of the file.
        """
        return text_of(line, self._encoding, self._errors)


def read_csv(source: Source, config: ReadConfig, make: Maker[T]) -> Iterator[T | Rejected]:
    """The results for a table whose first row names its columns; quotation marks follow RFC 4180.

    Of an invalid row the first line is rejected, and its other lines are read on their own.
    """
    encoding, found = lines(source, config)
    feed = _Feed(found, encoding, config)
    limit = csv.field_size_limit(config.max_record_bytes)
    try:
        yield from _rows(feed, source, make, config.columns)
    finally:
        csv.field_size_limit(limit)


def _rows(feed: _Feed, source: Source, make: Maker[T], columns: str | None) -> Iterator[T | Rejected]:
    try:
        delimiter, header = _head(feed, source.format, columns)
        make.columns(header)
    except (BadRecord, csv.Error) as error:
        yield rejected(source.name, error, feed.row[0][1] if feed.row else "")
        return
    rows = csv.reader(feed, delimiter=delimiter, strict=True)
    while True:
        feed.begin()
        try:
            row = next(rows)
            if row and len(row) != len(header):
                raise BadRecord("the number of fields is not that of the columns")
            if row:
                yield make.document(dict(zip(header, row, strict=True)), f"{source.name}:{feed.row[0][0]}")
        except StopIteration:
            return
        except (BadRecord, csv.Error) as error:
            yield _unquoted(feed, source, header, make, error)
            feed.give_back()


def _head(feed: _Feed, format: str, columns: str | None) -> tuple[str, list[str]]:
    """The delimiter of a table, and the names of its columns: `columns`, or else its first row."""
    first = next((line for line in feed if line.strip()), "")
    named = SEPARATOR_LINE.fullmatch(first.strip())
    if named:
        feed.begin()
        first = next((line for line in feed if line.strip()), "")
    outside = QUOTED.sub("", first)
    likely = max(",;\t", key=outside.count)  # among equally frequent ones the first
    delimiter = named[1] if named else "\t" if format == ".tsv" else likely
    if columns is not None:
        feed.give_back(0)
        return delimiter, columns.split(",")
    return delimiter, next(csv.reader([first], delimiter=delimiter, strict=True), [])


def _unquoted(feed: _Feed, source: Source, header: Sequence[str], make: Maker[T], error: Exception) -> T | Rejected:
    """The result for the first line of an invalid row; in .tsv, which few programs quote, quotes are taken for text."""
    place, line = f"{source.name}:{feed.row[0][0]}", feed.row[0][1]
    try:
        cells = feed.text(line).rstrip("\r\n").split("\t") if source.format == ".tsv" and not feed.row[0][2] else []
        if cells and len(cells) == len(header) and b'"' in line:
            return make.document(dict(zip(header, cells, strict=True)), place)
    except BadRecord as fault:
        error = fault
    return rejected(place, error if isinstance(error, BadRecord) else f"not CSV: {error}", line)
