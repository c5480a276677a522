"""The bytes of a file: decompressed, recoded, cut into lines, with never more in memory than a record may have.

file -> blocks -> (UTF-16 or 32: utf8) -> lines -> records
file -> blocks -> whole -> decoded -> one document
"""

from __future__ import annotations

import codecs
import lzma
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from babyllm.text.readers.records import TOO_LONG, BadRecord, ReadConfig, Source

BLOCK = 1 << 20
SAMPLES, SAMPLE = 16, 1 << 16  # places of a file, and bytes of each, by which its encoding is told
BOM = codecs.BOM_UTF8
WIDE_BOMS = {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
EXCERPT_BYTES = 800
FAULTS = (OSError, EOFError, lzma.LZMAError)


class Damaged(Exception):
    """A file that cannot be read further than it has been."""


# ---- bytes


def blocks(source: Source, start: int = 0) -> Iterator[bytes]:
    """The bytes of a file from `start` on, decompressed.

    Raises:
        Damaged: behind the last byte that can be read.
        OSError: the file cannot be opened.
    """
    done = 0
    try:
        with _open(source.path, source.compression) as file:
            if start:
                file.seek(start)
            while block := file.read(BLOCK):
                yield block
                done += len(block)
        return
    except FAULTS as error:
        if isinstance(error, OSError) and error.errno is not None and not done:
            raise
        if not source.compression:
            raise Damaged(f"{error}") from error
        reason = f"{error}"
    if rest := _rest_before_damage(source, done):
        yield rest
    raise Damaged(reason)


def _open(path: Path, compression: str) -> Any:
    if not compression:
        return path.open("rb", buffering=0)
    if compression == "xz":
        return lzma.open(path)
    import pyarrow as pa

    return pa.input_stream(str(path), compression=compression)


def _rest_before_damage(source: Source, done: int) -> bytes:
    """What lies between `done` and the damage: a read that fails takes what it had already decompressed with it."""
    rest = bytearray()
    for size in (1 << 12, 1):
        with suppress(*FAULTS), _open(source.path, source.compression) as file:
            ahead = done + len(rest)
            while ahead and (skipped := file.read(min(ahead, BLOCK))):
                ahead -= len(skipped)
            while piece := file.read(size):
                rest += piece
    return bytes(rest)


def whole(source: Source, limit: int) -> bytes:
    """All bytes of a file.

    Raises:
        BadRecord: there are more than `limit`.
    """
    data = bytearray()
    for block in blocks(source):
        data += block
        if len(data) > limit:
            raise BadRecord(TOO_LONG)
    return bytes(data)


# ---- lines


def lines(source: Source, config: ReadConfig) -> tuple[str, Iterator[tuple[int, bytes, bool]]]:
    """The encoding of a file and its lines that begin in the piece: (offset, bytes, whether it was too long).

    Of a line that is too long only the beginning is given. Offsets count bytes: of the decompressed file, and of its
    text in UTF-8 if that is stored in UTF-16 or 32.
    """
    encoding = encoding_of(source, config)
    end = sys.maxsize if source.end is None else source.end
    if is_wide(encoding):
        return "utf-8", _lines(utf8(blocks(source), encoding), 0, end, config.max_record_bytes, True)
    # A piece begins one byte early: whether a line begins at its first byte is told by the byte before.
    start = max(0, source.start - 1)
    return encoding, _lines(blocks(source, start), start, end, config.max_record_bytes, source.start == 0)


def _lines(
    parts: Iterable[bytes], offset: int, end: int, limit: int, is_wanted: bool
) -> Iterator[tuple[int, bytes, bool]]:
    """Lines of a stream that begins at `offset`; of the first one nothing is given unless it is wanted."""
    held, size = b"", 0  # of the line under way: its first bytes, and how many it has
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
    line = line if offset else line.removeprefix(BOM)
    return offset, line[:EXCERPT_BYTES] if is_long else line, is_long


# ---- encodings


def decoded(data: bytes, config: ReadConfig) -> str:
    """The text of a whole file.

    Raises:
        BadRecord: it is in no encoding that is recognised, or not in the one that was given.
    """
    encoding = config.encoding
    if encoding == "auto":
        encoding = _recognised(data[:BLOCK], (data[:BLOCK],))
    try:
        return data.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError:
        raise BadRecord(f"not valid {name_of(encoding)}") from None


def encoding_of(source: Source, config: ReadConfig) -> str:
    """The encoding of a text file, the same for each of its pieces.

    Raises:
        OSError: the file cannot be opened.
    """
    if config.encoding != "auto":
        return config.encoding
    if source.compression or source.stamp[0] <= BLOCK:
        try:
            head = next(blocks(source), b"")
        except Damaged:
            head = b""
        return _recognised(head, (head,))
    with source.path.open("rb") as file:
        samples = []
        for i in range(SAMPLES):
            file.seek((source.stamp[0] - SAMPLE) * i // (SAMPLES - 1))
            samples.append(file.read(SAMPLE))
    return _recognised(samples[0], samples)


def is_wide(encoding: str) -> bool:
    """Whether a line break is more than one byte, so that lines cannot be found without decoding."""
    return codecs.lookup(encoding).name.startswith(("utf-16", "utf-32"))


def utf8(parts: Iterable[bytes], encoding: str) -> Iterator[bytes]:
    """A stream in UTF-8; what is invalid in its encoding becomes something that is invalid there too."""
    errors = "surrogatepass" if is_wide(encoding) else "surrogateescape"
    decoder = codecs.getincrementaldecoder(encoding)(errors)
    for part in parts:
        if text := decoder.decode(part):
            yield text.encode("utf-8", "surrogatepass")
    try:
        decoder.decode(b"", True)
    except UnicodeDecodeError:
        yield b"\xff"


def name_of(encoding: str) -> str:
    """An encoding as people write it."""
    return encoding.upper()


def looks_chinese(data: bytes) -> bool:
    """Whether bytes are GB18030: what is not ASCII is mostly punctuation and the 3,755 commonest characters."""
    text = data.decode("gb18030", "replace")
    rest = re.sub("[\x00-\x7f]+", "", text)
    common = _common()
    return len(rest) < 2 * sum(character in common for character in rest)


def _recognised(head: bytes, samples: Iterable[bytes]) -> str:
    for mark, encoding in WIDE_BOMS.items():
        if head.startswith(mark):
            return encoding
    # A later sample may begin within a character; bytes below 0x30 are characters of their own in both encodings.
    first, *later = samples
    data = b"\n".join([first, *(re.split(rb"[\x00-\x2f]", sample, maxsplit=1)[-1] for sample in later)])
    text = data.decode("utf-8", "replace")
    n_invalid = text.count("\ufffd") - data.count("\ufffd".encode())
    n_other = len(text) - len(text.encode("ascii", "ignore"))
    return "gb18030" if 2 * n_invalid > n_other and looks_chinese(data) else "utf-8"


@cache
def _common() -> frozenset[str]:
    rows = [*range(0xA1, 0xA4), *range(0xB0, 0xD8)]
    codes = (bytes((row, cell)) for row in rows for cell in range(0xA1, 0xFF))
    return frozenset("".join(code.decode("gb2312", "ignore") for code in codes))
