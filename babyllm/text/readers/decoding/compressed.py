"""Compressed files, unpacked up to the last byte before their damage.

file -> members, one after the other -> decompressor of each -> blocks
     -> a damaged member: the same once more, its last piece fed byte by byte -> the rest before the damage -> Damaged

A member is what one call of a program made: joined files have several.
"""

from __future__ import annotations

import bz2
import lzma
import os
import re
import zlib
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, Protocol

BLOCK = 1 << 20
CHUNK = 1 << 16  # stored bytes that are unpacked at once
MAGIC = {
    **{"gzip": b"\x1f\x8b\x08", "bz2": b"BZh", "xz": b"\xfd7zXZ\0"},
    **{"zstd": b"\x28\xb5\x2f\xfd", "lz4": b"\x04\x22\x4d\x18"},
    "deflate": b"",
}
FAULTS = (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError)
LOST = "damaged: what lies behind is lost"
CHECKSUM = "the checksum is wrong: all was read, but some of it may have changed"
GARBAGE = "what follows the compressed data is not compressed: it is left out"
WINDOW = "needs a long window: unpack it first, with zstd -d --long=31"
TRAILER = {"gzip": 8, "bz2": 10, "zstd": 4, "lz4": 4, "xz": 0, "deflate": 0}
"""Last bytes of a file that hold no content but checksums."""


class Damaged(Exception):
    """A file that cannot be read further than it has been.

    Attributes:
        reason: one of a small number of phrases.
        is_whole: whether all of the content has been read.
        place: where in the stored file to look for an undamaged member.
    """

    def __init__(self, detail: object, reason: str = LOST, is_whole: bool = False, place: int = 0) -> None:
        super().__init__(str(detail))
        self.reason, self.is_whole, self.place = reason, is_whole, place


def unpacked(path: Path, compression: str, start: int = 0) -> Iterator[bytes]:
    """The content of a compressed file.

    Args:
        path: of the file.
        compression: gzip, bz2, xz, zstd or lz4.
        start: where its first member begins that is read.

    Raises:
        Damaged: after the last byte that can be read.
        OSError: the file cannot be read, which says nothing about its content.
    """
    with path.open("rb", buffering=4 * CHUNK) as file:
        if compression in DECOMPRESSORS:
            yield from _members(file, compression, start)
        else:
            yield from _frames(file, compression, start)


def next_member(path: Path, compression: str, place: int, begin: bytes) -> int | None:
    """Where the first member after a place begins whose content begins so; None if there is none."""
    magic = MAGIC[compression]
    with path.open("rb") as file:
        while True:
            file.seek(place)
            window = file.read(BLOCK)
            at = window.find(magic)
            if at >= 0:
                if _begins(path, compression, place + at, begin):
                    return place + at
                place += at + 1
            elif len(window) < BLOCK:
                return None
            else:
                place += len(window) - len(magic) + 1


def _begins(path: Path, compression: str, place: int, begin: bytes) -> bool:
    head = b""
    with suppress(Damaged):
        for block in unpacked(path, compression, place):
            head += block
            if len(head) >= len(begin):
                break
    return head.startswith(begin)


# ---- decompressors of the standard library, which are handed the stored bytes


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...

    @property
    def needs_input(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


class _Deflate:
    """A member of a gzip file, or what one is without its head, in the manner of `bz2.BZ2Decompressor`."""

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
}


def _members(file: BinaryIO, compression: str, start: int) -> Iterator[bytes]:
    begin: int | None = start
    while begin is not None:
        end = yield from member(file, compression, begin)
        begin = _after_padding(file, compression, end)


def _after_padding(file: BinaryIO, compression: str, end: int) -> int | None:
    """Where the member begins that follows one, perhaps after zeros; None at the end of the file.

    Raises:
        Damaged: something else follows.
    """
    file.seek(end)
    while piece := file.read(CHUNK):
        if rest := piece.lstrip(b"\0"):
            begin = file.tell() - len(rest)
            if not (rest + file.read(8)).startswith(MAGIC[compression]):
                raise Damaged(f"at byte {begin:,}", GARBAGE, True, begin)
            return begin
    return None


def member(file: BinaryIO, compression: str, begin: int) -> Generator[bytes, None, int]:
    """The content of what begins at such a byte of a file; where it ends is returned.

    Raises:
        Damaged: after the last byte that can be read.
    """
    decompressor = DECOMPRESSORS[compression]()
    fed, given = begin, 0  # where the stored bytes go on, and how many have been made of them
    file.seek(begin)
    while not decompressor.eof:
        piece = file.read(CHUNK) if decompressor.needs_input else b""
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
    raise _damage(file, compression, fault, begin, begin + 1)


def _fed(decompressor: _Decompressor, piece: bytes, size: int = BLOCK) -> bytes:
    if not piece and decompressor.needs_input:
        raise EOFError("the compressed data is cut off")
    return decompressor.decompress(piece, size)


def _rest(file: BinaryIO, compression: str, begin: int, damaged: int, given: int) -> Iterator[bytes]:
    """What a member holds after the `given` bytes and before its damage, which lies in the piece that begins there.

    A call that fails takes with it what it has already made, so the damaged piece is fed byte by byte. The file is
    left where the damage was found.
    """
    decompressor = DECOMPRESSORS[compression]()
    # A block of bz2 comes out after its last byte, and only then its checksum fails.
    size = 1 if compression == "bz2" else BLOCK
    file.seek(begin)
    at = begin
    while True:
        piece = file.read(1 if at >= damaged else CHUNK) if decompressor.needs_input else b""
        at += len(piece)
        try:
            data = _fed(decompressor, piece, size if at > damaged else BLOCK)
        except FAULTS:
            return
        given, data = max(0, given - len(data)), data[given:]
        if data:
            yield data


def _damage(file: BinaryIO, compression: str, fault: Exception, begin: int, place: int) -> Damaged:
    """What is told of a fault in a member that begins so, which was found where the file stands."""
    text, at = str(fault), file.tell()
    file.seek(begin)
    if file.read(len(MAGIC[compression])) != MAGIC[compression]:
        return Damaged(f"not compressed by {compression}: {text}", place=place)
    if isinstance(fault, EOFError):
        return Damaged(text, place=place)
    if "too much memory" in text:
        return Damaged(text, WINDOW, place=place)
    is_check = "data check" in text or "length check" in text or "checksum" in text
    if is_check or file.seek(0, os.SEEK_END) - at < TRAILER[compression]:
        return Damaged(text, CHECKSUM, True, place)
    return Damaged(text, place=place)


# ---- those of Arrow, which fetch the stored bytes


class _Feed:
    """A file as Arrow reads it, from some byte on one at a time.

    Attributes:
        at: how far it has been read.
        piece: where the piece begins that was read last.
        is_at_end: whether more was asked for than the file has.
        error: the one that reading the file met.
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
        """Leave the file to whoever has opened it."""


def _frames(file: BinaryIO, compression: str, start: int) -> Iterator[bytes]:
    feed = _Feed(file, start)
    given = 0
    try:
        with _arrow(feed, compression) as stream:
            while data := stream.read(BLOCK):
                given += len(data)
                yield data
        return
    except FAULTS as error:
        if feed.error:
            raise feed.error from None
        fault = error
    slow = _Feed(file, start, feed.piece)
    if rest := _before_fault(slow, compression, given):
        yield rest
    if given + len(rest) and re.search("unknown frame|frametype_unknown", str(fault), re.IGNORECASE):
        raise Damaged(fault, GARBAGE, True, slow.at)
    file.seek(slow.at)
    raise _damage(file, compression, EOFError(fault) if slow.is_at_end else fault, start, slow.at)


def _before_fault(feed: _Feed, compression: str, given: int) -> bytes:
    rest = bytearray()
    with suppress(*FAULTS), _arrow(feed, compression) as stream:
        while given and (skipped := stream.read(min(given, BLOCK))):
            given -= len(skipped)
        while byte := stream.read(1):  # a longer read that fails takes all of it along
            rest += byte
    return bytes(rest)


def _arrow(feed: _Feed, compression: str) -> Any:
    import pyarrow as pa

    return pa.CompressedInputStream(pa.PythonFile(feed, "r"), compression)
