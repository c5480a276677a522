"""Files in which a line is a record: JSON lines, tables in CSV and TSV, plain text line by line."""

from __future__ import annotations

import csv
import json
from collections import deque
from collections.abc import Iterator
from typing import Any

from babyllm.text.documents import Document
from babyllm.text.readers.encodings import text_of
from babyllm.text.readers.records import TOO_LONG, BadRecord, Fields, Maker, ReadConfig, Rejected, Source, T, rejected
from babyllm.text.readers.streams import lines


def read_jsonl(source: Source, config: ReadConfig, make: Maker[T]) -> Iterator[T | Rejected]:
    """What is made of a file with a JSON object in each line."""
    encoding, found = lines(source, config)
    for offset, line, is_long in found:
        place = f"{source.name}:{offset}"
        try:
            if is_long:
                raise BadRecord(TOO_LONG)
            yield make.document(parsed(line, encoding, config.errors), place)
        except BadRecord as error:
            if line.strip():
                yield rejected(place, error, line)


def read_txt_lines(source: Source, config: ReadConfig, fields: Fields) -> Iterator[Document | Rejected]:
    """Every line that is not blank as a document."""
    encoding, found = lines(source, config)
    for offset, line, is_long in found:
        place = f"{source.name}:{offset}"
        try:
            if is_long:
                raise BadRecord(TOO_LONG)
            text = text_of(line, encoding, config.errors).removeprefix("\ufeff").strip("\r")
            if text.strip():
                yield fields.plain(text, place)
        except BadRecord as error:
            yield rejected(place, error, line)


def parsed(raw: bytes, encoding: str = "utf-8", errors: str = "strict") -> Any:
    """The value that JSON text stands for; of a key given twice the last one counts.

    Raises:
        BadRecord: it is not JSON.
    """
    text = text_of(raw, encoding, errors).removeprefix("\ufeff")
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise BadRecord(f"not JSON: {error.msg}") from None
    except RecursionError:
        raise BadRecord("not JSON: nested too deeply") from None
    except ValueError:
        raise BadRecord("not JSON: a number too long") from None


# ---- tables


class _Feed:
    """Lines for a CSV reader, and those of the row under way, to be handed out again if they make no row."""

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
        return text_of(line[1], self._encoding, self._errors) + "\n"

    def begin(self) -> None:
        """Forget the lines of the last row."""
        self.row, self._size = [], 0

    def give_back(self) -> None:
        """Hand out all lines of the row again but the first: a lone quotation mark must not take them with it."""
        self._again.extendleft(reversed(self.row[1:]))


def read_csv(source: Source, config: ReadConfig, make: Maker[T]) -> Iterator[T | Rejected]:
    """What is made of a table whose first row names its columns; quotation marks follow RFC 4180.

    A row that makes no sense is rejected with its first line, and its other lines are read on their own.
    """
    encoding, found = lines(source, config)
    feed = _Feed(found, encoding, config)
    limit = csv.field_size_limit(config.max_record_bytes)
    try:
        yield from _rows(feed, source, make)
    finally:
        csv.field_size_limit(limit)


def _rows(feed: _Feed, source: Source, make: Maker[T]) -> Iterator[T | Rejected]:
    try:
        first = next(feed, "")
        feed.begin()
        delimiter = "\t" if source.format == ".tsv" else next((mark for mark in ",;\t" if mark in first), ",")
        header = next(csv.reader([first], delimiter=delimiter, strict=True), [])
        make.columns(header)
    except (BadRecord, csv.Error) as error:
        yield rejected(source.name, error, feed.row[0][1] if feed.row else first)
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
            reason = error if isinstance(error, BadRecord) else f"not CSV: {error}"
            yield rejected(f"{source.name}:{feed.row[0][0]}", reason, feed.row[0][1])
            feed.give_back()
