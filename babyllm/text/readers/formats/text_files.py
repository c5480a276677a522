"""Text files of several documents: lines, runs of lines between blank ones, or text between separators.

    blocks -> pieces between separators -> documents
    lines  -> runs of lines that are not blank -> documents

A file may be cut anywhere: a document belongs to the piece in which the separator before it begins.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace

from babyllm.documents import Document
from babyllm.text.readers.decoding.encodings import is_wide, text_of, utf8
from babyllm.text.readers.decoding.streams import EXCERPT_BYTES, blocks, encoding_of, lines
from babyllm.text.readers.formats.document_fields import Fields
from babyllm.text.readers.formats.pages import read_text
from babyllm.text.readers.records import TOO_LONG, BadRecord, ReadConfig, Rejected, Source, rejected

LINES_HINT = f"{TOO_LONG}; read it by lines with --read.txt=line, or name a --read.separator"
MARK_ALONE = re.compile(rb"^[ \t]*(<\|endoftext\|>|<\|end_of_text\|>)[ \t]*\r?$", re.MULTILINE)
Piece = tuple[int, bytes, bool]  # offset, bytes, and whether it is too long


def read_text_file(source: Source, config: ReadConfig, fields: Fields) -> Iterator[Document | Rejected]:
    """A text file as one document, or its documents between separators, which may be <|endoftext|> alone on a line."""
    mark = separator_of(source, config)
    if mark:
        yield from _separated(source, config, fields, mark)
        return
    for item in read_text(source, config, fields):
        if isinstance(item, Rejected) and item.reason == TOO_LONG:
            item = replace(item, reason=LINES_HINT)
        yield item


def separator_of(source: Source, config: ReadConfig) -> str:
    """The separator of the documents of a text file; empty if the file is a single document.

    Raises:
        Damaged: nothing of the file can be read.
        OSError: the file cannot be opened.
    """
    if config.separator:
        return config.separator.replace("\\n", "\n").replace("\\t", "\t")
    encoding = encoding_of(source, config)
    parts = blocks(source)
    head = next(utf8(parts, encoding, config.errors) if is_wide(encoding) else parts, b"")
    found = MARK_ALONE.search(head)
    return found[1].decode() if found else ""


def can_be_cut(separator: str) -> bool:
    """Whether a search finds the same separators wherever it begins: true for "<|x|>", not for "---" in "----"."""
    return bool(separator) and not any(separator.startswith(separator[i:]) for i in range(1, len(separator)))


def read_txt_lines(source: Source, config: ReadConfig, fields: Fields) -> Iterator[Document | Rejected]:
    """Each line that is not blank as a document."""
    encoding, found = lines(source, config)
    yield from _documents(found, encoding, source, config, fields)


def read_txt_parts(source: Source, config: ReadConfig, fields: Fields) -> Iterator[Document | Rejected]:
    """Each run of lines up to a blank one as a document."""
    end = sys.maxsize if source.end is None else source.end
    encoding, found = lines(replace(source, end=None), config)
    parts = _runs(found, source.start == 0, end, config.max_record_bytes)
    yield from _documents(parts, encoding, source, config, fields)


def _separated(source: Source, config: ReadConfig, fields: Fields, separator: str) -> Iterator[Document | Rejected]:
    end = sys.maxsize if source.end is None else source.end
    encoding = encoding_of(source, config)
    parts = blocks(source, source.start)
    if is_wide(encoding):
        parts, encoding = utf8(parts, encoding, config.errors), "utf-8"
    between = _between(parts, source.start, end, separator.encode(encoding), config.max_record_bytes)
    yield from _documents(between, encoding, source, config, fields)


def _documents(
    parts: Iterable[Piece], encoding: str, source: Source, config: ReadConfig, fields: Fields
) -> Iterator[Document | Rejected]:
    """Each part of a file that is not blank as a document."""
    for offset, raw, is_long in parts:
        text = raw.lstrip(b"\r\n")
        place = f"{source.name}:{offset + len(raw) - len(text)}"
        try:
            if is_long:
                raise BadRecord(TOO_LONG)
            content = text_of(text, encoding, config.errors).strip("\ufeff\r\n")
            if content and not content.isspace():
                yield fields.plain(content, place)
        except BadRecord as error:
            yield rejected(place, error, text)


def _runs(found: Iterable[Piece], is_wanted: bool, end: int, limit: int) -> Iterator[Piece]:
    """Runs of lines that are not blank, up to the first blank line at or after `end`; the first only if `is_wanted`."""
    held: list[bytes] = []
    begin = size = 0
    for offset, line, is_long in found:
        if line.strip():
            begin = begin if held else offset
            size += len(line) + 1 + limit * is_long
            if is_wanted and (size <= limit + 1 or not held):
                held.append(line)
            continue
        if held:
            yield begin, b"\n".join(held), size > limit + 1
        if offset >= end:
            return
        held, size, is_wanted = [], 0, True
    if held:
        yield begin, b"\n".join(held), size > limit + 1


def _between(parts: Iterable[bytes], base: int, end: int, mark: bytes, limit: int) -> Iterator[Piece]:
    """The parts between marks of a stream that begins at `base`; the one before the first mark only if `base` is 0."""
    buffer, begin, head = b"", base, b""  # head: the beginning of a part that is too long to hold
    is_wanted = base == 0
    for part in parts:
        buffer += part
        start = 0
        while (found := buffer.find(mark, start)) >= 0:
            if is_wanted:
                yield begin, head or buffer[start:found], bool(head) or found - start > limit
            if base + found >= end:
                return
            start, head, is_wanted = found + len(mark), b"", True
            begin = base + start
        base, buffer = base + start, buffer[start:]
        if len(buffer) > limit + len(mark):
            head = head or buffer[:EXCERPT_BYTES]
            base, buffer = base + len(buffer) - len(mark), buffer[-len(mark) :]
    if is_wanted and (buffer or head):
        yield begin, head or buffer, bool(head) or len(buffer) > limit
