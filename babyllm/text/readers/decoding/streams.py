"""The bytes of a file: unpacked, recoded and cut into lines, with at most one record in memory.

file -> blocks -> (UTF-16 or 32: utf8) -> lines -> records
file -> blocks -> whole -> decoded -> one document
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from itertools import islice

from babyllm.text.readers.decoding.compressed import BLOCK, Damaged, unpacked
from babyllm.text.readers.decoding.encodings import BOM, is_wide, recognised, utf8
from babyllm.text.readers.records import TOO_LONG, BadRecord, ReadConfig, Source

SAMPLES, SAMPLE = 16, 1 << 16  # samples of a file, and bytes of each, from which its encoding is detected
HEAD_BLOCKS = 8  # first blocks of a compressed file, among which one with more than ASCII is looked for
EXCERPT_BYTES = 800


# ---- bytes


def blocks(source: Source, start: int = 0) -> Iterator[bytes]:
    """The unpacked bytes of a file in blocks, from byte `start` of the stored file on.

    Raises:
        Damaged: the file is damaged; raised after the last byte that can be read.
        OSError: the file cannot be read, which says nothing about its content.
    """
    if source.compression:
        yield from unpacked(source.path, source.compression, start)
    else:
        with source.path.open("rb", buffering=0) as file:
            file.seek(start)
            while block := file.read(BLOCK):
                yield block
    if source.damage:
        raise source.damage


def whole(source: Source, limit: int) -> Iterator[bytes]:
    """All bytes of a file as one value; nothing if some are lost.

    Raises:
        BadRecord: the file has more than `limit` bytes.
        Damaged: some bytes are lost; also raised after all of them if their checksum is wrong.
        OSError: the file cannot be read.
    """
    data = bytearray()
    damage = None
    try:
        for block in blocks(source):
            data += block
            if len(data) > limit:
                raise BadRecord(TOO_LONG)
    except Damaged as error:
        damage = error
    if damage is None or damage.is_whole:
        yield bytes(data)
    if damage:
        raise damage


# ---- lines


def lines(source: Source, config: ReadConfig) -> tuple[str, Iterator[tuple[int, bytes, bool]]]:
    """The encoding of a file, and its lines that begin in the piece: (offset, bytes, whether it is too long).

    A line that is too long is cut to its beginning. Offsets count bytes of the unpacked file, or of its text in UTF-8
    if that is stored in UTF-16 or 32. Byte order marks before a line, as in joined files, are left out.

    Raises:
        Damaged: the file is damaged; raised after the last line that can be read.
        OSError: the file cannot be read.
    """
    encoding = encoding_of(source, config)
    end = sys.maxsize if source.end is None else source.end
    if is_wide(encoding):
        parts = utf8(blocks(source), encoding, config.errors)
        return "utf-8", _lines(parts, 0, end, config.max_record_bytes, True)
    # Reading starts one byte early: the byte before the piece decides whether a line begins at its first byte.
    start = max(0, source.start - 1)
    return encoding, _lines(blocks(source, start), start, end, config.max_record_bytes, source.start == 0)


def _lines(
    parts: Iterable[bytes], offset: int, end: int, limit: int, is_wanted: bool
) -> Iterator[tuple[int, bytes, bool]]:
    """Lines of a stream that begins at `offset`; the first one is left out unless `is_wanted`."""
    held, size = b"", 0  # first bytes of the current line, and its whole size
    for block in parts:
        *ended, last = block.split(b"\n")
        for line in ended:
            if size:
                line, size = held + line[: max(0, limit + 1 - size)], size + len(line)
                held = b""
            else:
                size = len(line)
            if is_wanted:
                yield _line(offset, line, size > limit)
            offset, size, is_wanted = offset + size + 1, 0, True
            if offset >= end:
                return
        held = held + last[: limit + 1] if size <= limit else held[:EXCERPT_BYTES]
        size += len(last)
        if not is_wanted and offset + size >= end:
            return
    if is_wanted and size:
        yield _line(offset, held, size > limit)


def _line(offset: int, line: bytes, is_long: bool) -> tuple[int, bytes, bool]:
    while line.startswith(BOM):
        line = line[len(BOM) :]
    return offset, line[:EXCERPT_BYTES] if is_long else line, is_long


def encoding_of(source: Source, config: ReadConfig) -> str:
    """The encoding of a text file, the same for each of its pieces; UTF-8 if it is not recognised.

    Raises:
        OSError: the file cannot be read.
    """
    if config.encoding != "auto":
        return config.encoding
    return recognised(_samples(source)) or "utf-8"


def _samples(source: Source) -> list[bytes]:
    """The bytes from which the encoding of a file is detected: its beginning, or samples from all over it."""
    if source.compression or source.stamp[0] <= BLOCK:
        return [_first_beyond_ascii(source)]
    samples = []
    with source.path.open("rb") as file:
        for i in range(SAMPLES):
            file.seek((source.stamp[0] - SAMPLE) * i // (SAMPLES - 1))
            samples.append(file.read(SAMPLE))
    return samples


def _first_beyond_ascii(source: Source) -> bytes:
    """The first of the `HEAD_BLOCKS` first blocks that holds more than ASCII, else the last of them."""
    block = b""
    try:
        for block in islice(blocks(source), HEAD_BLOCKS):
            if not block.isascii():
                break
    except Damaged:
        pass
    return block
