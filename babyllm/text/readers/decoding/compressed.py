"""Compressed files, unpacked up to the last byte before their damage.

file -> members, one after the other -> decompressor of each -> blocks
     -> a damaged member: the same once more, its last piece fed byte by byte -> the rest before the damage -> Damaged

A member is what one call of a program made: joined files have several.
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
FIRST, CHUNK = 1 << 12, 1 << 16  # stored bytes that are unpacked at once: of a member, which may be small, and at most
PADDING = 1 << 9  # bytes that are read at once where there is perhaps none
MAGIC = {
    **{"gzip": b"\x1f\x8b\x08", "bz2": b"BZh", "xz": b"\xfd7zXZ\0"},
    **{"zstd": b"\x28\xb5\x2f\xfd", "lz4": b"\x04\x22\x4d\x18"},
    "deflate": b"",
}
SKIPPED = re.compile(rb"[\x50-\x5f]\x2a\x4d\x18")  # begins a frame of zstd or lz4 that holds no content
FAULTS = (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError, zstd.ZstdError)
LOST = "damaged: what follows is lost"
CHECKSUM = "the checksum is wrong: all was read, but some of it may have changed"
GARBAGE = "what follows the compressed data is not compressed: it is left out"
DICTIONARY = "needs the dictionary that it was made with: unpack it first, with zstd -d -D"
LONGEST_WINDOW = 31  # bits of a place in it, as of `zstd --long=31`: 2 GiB
TRAILER = {"bz2": 10, "lz4": 4}
"""Last bytes of a file that hold no content but checksums, where a fault does not say that it is one of them."""


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
            yield from _frames(file, start)


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


def _is_member(head: bytes, compression: str) -> bool:
    """Whether bytes are the beginning of a member."""
    has_skipped = compression in ("zstd", "lz4")
    return head.startswith(MAGIC[compression]) or (has_skipped and SKIPPED.match(head) is not None)


# ---- decompressors that are handed the stored bytes


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
    "zstd": lambda: zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: LONGEST_WINDOW}),
}


def _members(file: BinaryIO, compression: str, start: int) -> Iterator[bytes]:
    """The content of all members; of a wrong checksum is told after all of them."""
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
            # A checksum is wrong, too, where damage made a member end too early.
            raise Damaged(last, place=begin) if last else Damaged(f"at byte {begin:,}", GARBAGE, True, begin)
    if wrong:
        raise wrong


def _after_padding(file: BinaryIO, end: int) -> int | None:
    """Where something follows a member, perhaps after zeros; None at the end of the file."""
    file.seek(end)
    while piece := file.read(PADDING):
        if rest := piece.lstrip(b"\0"):
            return file.tell() - len(rest)
    return None


def _head(file: BinaryIO, begin: int) -> bytes:
    file.seek(begin)
    return file.read(8)


def member(file: BinaryIO, compression: str, begin: int) -> Generator[bytes, None, int]:
    """The content of what begins at such a byte of a file; where it ends is returned.

    Raises:
        Damaged: after the last byte that can be read.
    """
    decompressor = DECOMPRESSORS[compression]()
    fed, given = begin, 0  # where the stored bytes go on, and how many have been made of them
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
    """What is told of a fault in a member that begins so, which was found where the file stands.

    Raises:
        OSError: the fault is a want of memory.
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
        # After the checksum of gzip comes its length.
        return Damaged(f"at byte {begin:,}: {text}", CHECKSUM, True, at + 4 * ("data check" in text))
    return Damaged(text, place=begin + 1)


# ---- lz4 by Arrow, which fetches the stored bytes


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
        while byte := stream.read(1):  # a longer read that fails takes all of it along
            rest += byte
    return bytes(rest)


def _arrow(feed: _Feed) -> Any:
    import pyarrow as pa

    return pa.CompressedInputStream(pa.PythonFile(feed, "r"), "lz4")
