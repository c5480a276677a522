"""Compressed files, unpacked up to the last byte before any damage.

file -> members, one after the other -> decompressor of each -> blocks
     -> a damaged member: unpacked again, its last piece fed byte by byte -> the rest before the damage -> Damaged

A member is the output of one run of a compressor; joined files have several.
"""

from __future__ import annotations

import bz2
import errno
import lzma
import os
import re
import sys
import zlib
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, Protocol

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

BLOCK = 1 << 20
FIRST, CHUNK = 1 << 12, 1 << 16  # stored bytes unpacked at once: at the start of a member, which may be small; at most
PADDING = 1 << 9  # bytes read at once after a member, where padding may stand
MAGIC = {
    **{"gzip": b"\x1f\x8b\x08", "bz2": b"BZh", "xz": b"\xfd7zXZ\0"},
    **{"zstd": b"\x28\xb5\x2f\xfd", "lz4": b"\x04\x22\x4d\x18"},
    "deflate": b"",
}
SKIPPED = re.compile(rb"[\x50-\x5f]\x2a\x4d\x18")  # the beginning of a zstd or lz4 frame without content
FAULTS = (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError, zstd.ZstdError)
LOST = "damaged: what follows is lost"
CHECKSUM = "the checksum is wrong: all was read, but some of it may have changed"
GARBAGE = "what follows the compressed data is not compressed: it is left out"
DICTIONARY = "needs the dictionary that it was made with: unpack it first, with zstd -d -D"
LONGEST_WINDOW = 31  # log2 of the bytes of a window, as with `zstd --long=31`: 2 GiB
TRAILER = {"bz2": 10, "lz4": 4}
"""Last bytes of a file that hold only checksums, for codecs whose errors do not say that a checksum failed."""


class Damaged(Exception):
    """A file that cannot be read any further.

    Attributes:
        reason: one of a small number of phrases.
        is_whole: whether all of the content has been read.
        place: byte of the stored file from which to look for an undamaged member.
    """

    def __init__(self, detail: object, reason: str = LOST, is_whole: bool = False, place: int = 0) -> None:
        super().__init__(str(detail))
        self.reason, self.is_whole, self.place = reason, is_whole, place


def unpacked(path: Path, compression: str, start: int = 0) -> Iterator[bytes]:
    """The content of a compressed file, in blocks of bytes.

    Args:
        path: path of the file.
        compression: gzip, bz2, xz, zstd or lz4.
        start: byte of the stored file at which the first member to read begins.

    Raises:
        Damaged: the content is damaged; raised after the last byte that can be read.
        OSError: the file cannot be read, which says nothing about its content.
    """
    with path.open("rb", buffering=4 * CHUNK) as file:
        if compression in DECOMPRESSORS:
            yield from _members(file, compression, start)
        else:
            yield from _frames(file, start)


def members_from(path: Path, compression: str, start: int, end: int | None, begin: bytes) -> Iterator[bytes]:
    """The content of the members from byte `start` up to the first from `end` on whose content begins with `begin`.

    Raises:
        Damaged: a member is damaged; raised after the last byte of it that can be read.
        OSError: the file cannot be read.
    """
    place: int | None = start
    with path.open("rb", buffering=4 * CHUNK) as file:
        while place is not None and not (end is not None and place >= end and _begins(path, compression, place, begin)):
            place = _after_padding(file, (yield from member(file, compression, place)))


def next_member(path: Path, compression: str, place: int, begin: bytes, end: int | None = None) -> int | None:
    """The byte at which the first member from `place` on begins whose content begins with `begin`.

    None if there is none, or none before `end`.
    """
    magic = MAGIC[compression]
    with path.open("rb") as file:
        while end is None or place < end:
            file.seek(place)
            window = file.read(BLOCK)
            at = window.find(magic)
            if at >= 0:
                if end is not None and place + at >= end:
                    return None
                if _begins(path, compression, place + at, begin):
                    return place + at
                place += at + 1
            elif len(window) < BLOCK:
                return None
            else:
                place += len(window) - len(magic) + 1
    return None


def _begins(path: Path, compression: str, place: int, begin: bytes) -> bool:
    head = b""
    with suppress(Damaged):
        for block in unpacked(path, compression, place):
            head += block
            if len(head) >= len(begin):
                break
    return head.startswith(begin)


def _is_member(head: bytes, compression: str) -> bool:
    """Whether the bytes are the beginning of a member."""
    has_skipped = compression in ("zstd", "lz4")
    return head.startswith(MAGIC[compression]) or (has_skipped and SKIPPED.match(head) is not None)


# ---- decompressors that take the stored bytes as arguments


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...

    @property
    def needs_input(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


class _Deflate:
    """A member of a gzip file, or bare deflate data, with the interface of `bz2.BZ2Decompressor`."""

    def __init__(self, window: int = 31) -> None:
        self._inner, self._is_full = zlib.decompressobj(window), False

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def needs_input(self) -> bool:
        return not self._is_full

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        found = self._inner.decompress(self._inner.unconsumed_tail + data, max_length)
        self._is_full = len(found) == max_length
        return found


DECOMPRESSORS: dict[str, Callable[[], _Decompressor]] = {
    **{"gzip": _Deflate, "bz2": bz2.BZ2Decompressor},
    "deflate": lambda: _Deflate(-15),  # as in .zip archives
    "xz": lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ),
    "zstd": lambda: zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: LONGEST_WINDOW}),
}


def _members(file: BinaryIO, compression: str, start: int) -> Iterator[bytes]:
    """The content of all members; a wrong checksum is raised after the last of them."""
    begin: int | None = start
    wrong: Damaged | None = None
    while begin is not None:
        last = None
        try:
            end = yield from member(file, compression, begin)
        except Damaged as error:
            if not error.is_whole:
                raise
            last, end = error, error.place
        begin, wrong = _after_padding(file, end), wrong or last
        if begin is not None and not _is_member(_head(file, begin), compression):
            # A checksum also fails where damage made a member end too early.
            raise Damaged(last, place=begin) if last else Damaged(f"at byte {begin:,}", GARBAGE, True, begin)
    if wrong:
        raise wrong


def _after_padding(file: BinaryIO, end: int) -> int | None:
    """The byte at which data follows a member, with or without zeros between; None at the end of the file."""
    file.seek(end)
    while piece := file.read(PADDING):
        if rest := piece.lstrip(b"\0"):
            return file.tell() - len(rest)
    return None


def _head(file: BinaryIO, begin: int) -> bytes:
    file.seek(begin)
    return file.read(8)


def member(file: BinaryIO, compression: str, begin: int) -> Generator[bytes, None, int]:
    """The content of the member that begins at byte `begin` of a file; returns the byte at which it ends.

    Raises:
        Damaged: the member is damaged; raised after the last byte that can be read.
    """
    decompressor = DECOMPRESSORS[compression]()
    fed, given = begin, 0  # offset of the next stored byte, and number of unpacked bytes so far
    file.seek(begin)
    while not decompressor.eof:
        piece = file.read(min(CHUNK, FIRST + fed - begin)) if decompressor.needs_input else b""
        try:
            data = _fed(decompressor, piece)
        except FAULTS as error:
            fault = error
            break
        fed += len(piece)
        given += len(data)
        if data:
            yield data
    else:
        return fed - len(decompressor.unused_data)
    yield from _rest(file, compression, begin, fed, given)
    raise _damage(file, compression, fault, begin)


def _fed(decompressor: _Decompressor, piece: bytes, size: int = BLOCK) -> bytes:
    if not piece and decompressor.needs_input:
        raise EOFError("the compressed data is cut off")
    return decompressor.decompress(piece, size)


def _rest(file: BinaryIO, compression: str, begin: int, damaged: int, given: int) -> Iterator[bytes]:
    """The content of a member after its first `given` bytes and before its damage.

    The damage lies in the piece that begins at byte `damaged`. A call that fails discards what it has already
    unpacked, so this piece is fed byte by byte. The file position afterwards is the place of the damage.
    """
    decompressor = DECOMPRESSORS[compression]()
    # bz2 returns a block after its last byte, and its checksum fails only then.
    size = 1 if compression == "bz2" else BLOCK
    file.seek(begin)
    at = begin
    while True:
        piece = file.read(min(CHUNK, max(1, damaged - at))) if decompressor.needs_input else b""
        at += len(piece)
        try:
            data = _fed(decompressor, piece, size if at > damaged else BLOCK)
        except FAULTS:
            return
        given, data = max(0, given - len(data)), data[given:]
        if data:
            yield data


def _damage(file: BinaryIO, compression: str, fault: Exception, begin: int) -> Damaged:
    """The error for a fault in the member that begins at byte `begin`, found at the current position of the file.

    Raises:
        OSError: the fault is a lack of memory.
    """
    text, at = str(fault), file.tell()
    if "not enough memory" in text:
        raise OSError(errno.ENOMEM, "there is not enough memory for its window")
    if not _is_member(_head(file, begin), compression):
        return Damaged(f"not compressed by {compression}: {text}", place=begin + 1)
    if isinstance(fault, EOFError):
        return Damaged(text, place=begin + 1)
    if "Dictionary mismatch" in text:
        return Damaged(text, DICTIONARY, place=begin + 1)
    size = file.seek(0, os.SEEK_END)
    if size - at < TRAILER.get(compression, 0):
        return Damaged(text, CHECKSUM, True, size)
    if any(name in text for name in ("data check", "length check", "checksum")):
        # In gzip the length follows the checksum.
        return Damaged(f"at byte {begin:,}: {text}", CHECKSUM, True, at + 4 * ("data check" in text))
    return Damaged(text, place=begin + 1)


# ---- lz4 by Arrow, which reads the stored bytes itself


class _Feed:
    """A file for Arrow to read, from byte `slow_from` on one byte at a time.

    Attributes:
        at: byte up to which it has been read.
        piece: byte at which the last piece that was read begins.
        is_at_end: whether more was asked for than the file has.
        error: error of the operating system on reading the file.
    """

    closed = False

    def __init__(self, file: BinaryIO, start: int, slow_from: int | None = None) -> None:
        self._file, self._slow_from = file, slow_from
        self.at = self.piece = start
        self.is_at_end = False
        self.error: OSError | None = None
        file.seek(start)

    def read(self, size: int) -> bytes:
        is_slow = self._slow_from is not None and self.at >= self._slow_from
        try:
            data = self._file.read(1 if is_slow else min(size, CHUNK))
        except OSError as error:
            self.error = error
            raise
        if data:
            self.piece = self.at
        else:
            self.is_at_end = True
        self.at += len(data)
        return data

    def close(self) -> None:
        """Leave the file open for its owner."""


def _frames(file: BinaryIO, start: int) -> Iterator[bytes]:
    feed = _Feed(file, start)
    given = 0
    try:
        with _arrow(feed) as stream:
            while data := stream.read(BLOCK):
                given += len(data)
                yield data
        return
    except FAULTS as error:
        if feed.error:
            raise feed.error from None
        fault = error
    slow = _Feed(file, start, feed.piece)
    if rest := _before_fault(slow, given):
        yield rest
    if given + len(rest) and "frametype_unknown" in str(fault).lower():
        raise Damaged(fault, GARBAGE, True, slow.at)
    file.seek(slow.at)
    raise _damage(file, "lz4", EOFError(fault) if slow.is_at_end else fault, start)


def _before_fault(feed: _Feed, given: int) -> bytes:
    rest = bytearray()
    with suppress(*FAULTS), _arrow(feed) as stream:
        while given and (skipped := stream.read(min(given, BLOCK))):
            given -= len(skipped)
        while byte := stream.read(1):  # a longer read that fails returns nothing of it
            rest += byte
    return bytes(rest)


def _arrow(feed: _Feed) -> Any:
    import pyarrow as pa

    return pa.CompressedInputStream(pa.PythonFile(feed, "r"), "lz4")
