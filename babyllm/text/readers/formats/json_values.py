"""JSON files that are not JSON lines: an array of records, a single record, or records one after the other.

The file is cut by its brackets, without building values, and each piece is parsed on its own. So a record that is too
long is never held in memory, a broken one does not affect the others, and the offset of each is known.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from babyllm.text.readers.decoding.encodings import BOM, utf8
from babyllm.text.readers.decoding.streams import EXCERPT_BYTES, blocks, encoding_of
from babyllm.text.readers.formats.lines import AROUND, after, decoded, parsed, read_jsonl, value_in
from babyllm.text.readers.records import (
    CUT_OFF,
    TOO_LONG,
    BadRecord,
    Maker,
    ReadConfig,
    Rejected,
    Source,
    T,
    rejected,
)

JSON_SUFFIXES = (".jsonl", ".ndjson", ".json")
UNCLOSED = "the file ends before its array does"
MARKS_WITHIN = re.compile(rb'["{}\[\]]')
MARKS_OF_ARRAY = re.compile(rb'["{}\[\],]')
MARKS_OF_SEQUENCE = re.compile(rb'["{}\[\]\n]')
SPACE = b" \t\r\n\x1e"
SEPARATORS = SPACE + b","
KEY_ON_NEXT_LINE = re.compile(r"\{[ \t]*\r?\n\s*\"[^\"\n]*\"\s*:")  # the beginning of an object of several lines


def read_json(source: Source, config: ReadConfig, make: Maker[T]) -> Iterator[T | Rejected]:
    """The results for the records of a JSON file of any suffix: one per line, an array, or one after the other."""
    if source.start or source.end is not None or holds_lines(source, config):  # only files of lines are cut into pieces
        yield from read_jsonl(source, config, make)
        return
    for offset, raw, fault in _values(json_blocks(source, config), config.max_record_bytes):
        place = f"{source.name}:{offset}"
        try:
            if fault:
                raise BadRecord(fault)
            yield make.document(parsed(raw, errors=config.errors), place)
        except BadRecord as error:
            yield rejected(place, error, raw)


def json_blocks(source: Source, config: ReadConfig) -> Iterator[bytes]:
    """The bytes of a JSON file in UTF-8, in blocks."""
    encoding = encoding_of(source, config)
    parts = blocks(source)
    return parts if encoding == "utf-8" else utf8(parts, encoding, config.errors)


def holds_lines(source: Source, config: ReadConfig) -> bool:
    """Whether a JSON file has a record per line, by its beginning; in doubt its suffix decides.

    Raises:
        Damaged: nothing of the file can be read.
        OSError: the file cannot be opened.
    """
    text = next(json_blocks(source, config), b"").decode("utf-8", "replace").lstrip(AROUND)
    in_doubt = source.format != ".json"
    if text.startswith("["):
        element = text[1:].lstrip(AROUND)
        if not element.startswith("]") and not _end_of_value(element):
            return in_doubt
        line, _, rest = text.partition("\n")
        end = _end_of_value(line)
        return bool(end and not line[end:].strip(AROUND) and rest.strip(AROUND))
    end = _end_of_value(text)
    if not end:
        return in_doubt and not KEY_ON_NEXT_LINE.match(text)
    line, line_break, _ = text[end:].partition("\n")
    is_alone = not line.strip(AROUND + ",")
    return "\n" not in text[:end] and (is_alone or (bool(line_break) and (in_doubt or _holds_values(line))))


def _end_of_value(text: str) -> int:
    """The index at which the JSON value at the beginning of a text ends; 0 if there is none or it is incomplete."""
    try:
        return decoded(text, 0)[1]
    except BadRecord:
        return 0


def _holds_values(line: str) -> bool:
    """Whether only values follow the first value of a line."""
    at = after(line, 0)
    while at < len(line):
        try:
            at = after(line, value_in(line, at)[1])
        except BadRecord:
            return False
    return True


def _is_json(raw: bytes) -> bool:
    try:
        parsed(raw)
    except BadRecord:
        return False
    return True


Piece = tuple[int, bytes, str]  # offset, JSON text, and the reason why it cannot be read if that is known


def _values(parts: Iterator[bytes], limit: int) -> Iterator[Piece]:
    """The values of a file in order, also if it holds several arrays."""
    base, head = 0, next(parts, b"")
    while head:
        cutter = _Cutter(head, parts, limit, base)
        yield from cutter.pieces()
        base, head = cutter.rest()
        if head and not head.startswith(b"["):
            yield base, head[:EXCERPT_BYTES], "text after the end of the array"
            return


class _Cutter:
    """Cuts a stream at the commas of its array or, if it is not an array, after each value.

    `_buffer` holds what is not cut yet. The current value begins at `_begin`, and brackets are counted up to `_at`.
    """

    def __init__(self, head: bytes, parts: Iterator[bytes], limit: int, base: int) -> None:
        self._buffer, self._parts, self._limit = head, parts, limit
        self._base = base  # offset of the buffer
        first = len(head) - len(head.removeprefix(BOM).lstrip(SPACE))
        self._is_array = head[first : first + 1] == b"["
        self._floor = int(self._is_array)  # depth between values
        self._marks = MARKS_OF_ARRAY if self._is_array else MARKS_OF_SEQUENCE
        self._begin = self._at = first + self._floor
        self._depth, self._in_string, self._is_dropped, self._is_closed = self._floor, False, False, False
        # Where values begin on lines of their own, reading resumes at such a beginning after a broken value.
        space = head[self._begin :]
        space = space[: len(space) - len(space.lstrip(SPACE))]
        self._restart = b"\n" + space.rpartition(b"\n")[2] + b"{"

    def pieces(self) -> Iterator[Piece]:
        """The values in order; the raw text of one that is too long is cut short."""
        while not self._is_closed:
            end = self._next_end()
            if end is not None:
                yield from self._value(end)
                continue
            self._buffer, self._base = self._buffer[self._begin :], self._base + self._begin
            self._at, self._begin = self._at - self._begin, 0
            if len(self._buffer) > self._limit:
                yield from self._shortened()
            block = next(self._parts, b"")
            if not block and self._is_broken(self._buffer):
                yield from self._line_by_line(len(self._buffer))
            elif not block:
                yield from self._ended()
                return
            self._buffer += block

    def rest(self) -> tuple[int, bytes]:
        """The offset of what follows the end of the array, and its bytes; empty if there is no array."""
        part = self._buffer[self._begin :] if self._is_closed else b""
        base = self._base + self._begin
        while self._is_closed and not part.strip(SEPARATORS) and (block := next(self._parts, b"")):
            base, part = base + len(part), block
        rest = part.lstrip(SEPARATORS)
        return base + len(part) - len(rest), rest

    def _next_end(self) -> int | None:
        """The index in the buffer at which the current value ends; None if it goes on after the buffer."""
        buffer = self._buffer
        while True:
            if self._in_string:
                quote = buffer.find(b'"', self._at)
                if quote < 0:
                    break
                self._at = quote + 1
                before = quote
                while buffer[before - 1] == 0x5C and before:
                    before -= 1
                self._in_string = (quote - before) % 2 == 1
                continue
            mark = (self._marks if self._depth == self._floor else MARKS_WITHIN).search(buffer, self._at)
            if not mark:
                break
            self._at = mark.end()
            sign = mark[0]
            if sign == b'"':
                self._in_string = True
            elif sign in b"{[":
                self._depth += 1
            elif sign in b"}]":
                self._depth -= 1
                if self._is_array and self._depth < self._floor:
                    self._is_closed = True
                    return mark.start()
                if not self._is_array and self._depth <= 0:
                    self._depth = 0
                    return mark.end()
            else:
                return mark.start()
        self._at = len(buffer)
        return None

    def _value(self, end: int) -> Iterator[Piece]:
        raw = self._buffer[self._begin : end]
        if self._is_broken(raw):
            self._is_closed = False
            yield from self._line_by_line(end)
            return
        if not self._is_dropped:
            yield from self._piece(raw)
        self._begin, self._is_dropped = self._at, False

    def _piece(self, raw: bytes) -> Iterator[Piece]:
        text = raw.lstrip(SPACE if self._is_array else SEPARATORS)
        offset = self._base + self._begin + len(raw) - len(text)
        text = text.rstrip(SPACE).removesuffix(b",")
        if text and len(text) <= self._limit:
            yield offset, text, ""
        elif text:
            yield offset, text[:EXCERPT_BYTES], TOO_LONG

    def _line_by_line(self, end: int) -> Iterator[Piece]:
        """Yield the pieces of a broken value that begin on lines of their own, and go on with the last of them."""
        while (cut := self._buffer.find(self._restart, self._begin + 1, end)) > 0:
            yield from self._piece(self._buffer[self._begin : cut])
            self._begin = cut
        self._at, self._depth, self._in_string = self._begin, self._floor, False

    def _shortened(self) -> Iterator[Piece]:
        """Drop what has been read of a value that is too long."""
        if not self._is_dropped and self._restarts(self._buffer):
            yield from self._line_by_line(len(self._buffer))
            return
        if not self._is_dropped:
            yield from self._piece(self._buffer)
        self._is_dropped = True
        n_backslashes = len(self._buffer) - len(self._buffer.rstrip(b"\\"))
        kept = n_backslashes % 2  # a single backslash decides what a quotation mark after it means
        self._base += len(self._buffer) - kept
        self._buffer, self._at = self._buffer[len(self._buffer) - kept :], kept

    def _ended(self) -> Iterator[Piece]:
        raw = self._buffer.strip(SPACE)
        if raw and not self._is_dropped and self._is_open():
            yield self._base + self._buffer.index(raw[:1]), raw, CUT_OFF
            return
        if raw and not self._is_dropped:
            yield from self._piece(self._buffer)
        if self._is_array:
            yield self._base + len(self._buffer), b"", UNCLOSED

    def _is_broken(self, raw: bytes) -> bool:
        """Whether an apparent value is really several, of which one is not closed."""
        return not self._is_dropped and self._restarts(raw) and not _is_json(raw)

    def _restarts(self, raw: bytes) -> bool:
        return self._restart in raw.lstrip(SPACE)

    def _is_open(self) -> bool:
        return self._in_string or self._depth > self._floor
