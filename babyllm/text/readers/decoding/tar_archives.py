"""The files of .tar archives, in one pass: joined archives are read too, and damaged places are skipped."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, BinaryIO, cast

from babyllm.text.readers.decoding.compressed import BLOCK, Damaged
from babyllm.text.readers.decoding.streams import blocks
from babyllm.text.readers.records import Entry, Source

REMEMBERED = 1000
SPARSE = "a sparse file, which is not read"
LOST_HEADER = "damaged: a part of the archive between its files is lost"


@dataclass
class _Losses:
    """Damage of an archive: the number of blocks that should be headers, and whether a file has reported damage."""

    n_blocks: int = 0
    is_reported: bool = False


def tar_entries(source: Source) -> Iterator[Entry]:
    """The files of an archive, or of a piece of one, in order; read the content of each before asking for the next.

    Raises:
        Damaged: something was lost outside of the files; raised after the last file.
        OSError: the archive cannot be read.
    """
    losses = _Losses()
    with closing(_opened(source)) as file:
        try:
            for member in _members(file, _counting(losses)):
                if source.end is not None and member.offset >= source.end:
                    return
                if member.isreg():
                    yield Entry(member.name, _content(file, member, losses), SPARSE if member.issparse() else "")
        except tarfile.TarError as error:
            if not losses.is_reported:
                raise Damaged(error) from None
        if (damage := getattr(file, "damage", None)) and not losses.is_reported:
            raise damage
    if losses.n_blocks:
        raise Damaged(f"{losses.n_blocks:,} blocks that are not headers", LOST_HEADER)


def tar_ranges(source: Source, size: int) -> list[tuple[int, int]]:
    """Pieces of about `size` bytes into which an archive can be cut between files: (first byte, end)."""
    cuts = [0]
    with source.path.open("rb") as file:
        try:
            for member in _members(file, tarfile.TarInfo):
                if member.offset - cuts[-1] >= size:
                    cuts.append(member.offset)
        except tarfile.TarError:  # the reader will report it
            pass
    return list(pairwise([*cuts, source.size_bytes]))


def _opened(source: Source) -> BinaryIO:
    if source.compression:
        return cast(BinaryIO, _Forward(blocks(source)))
    file = source.path.open("rb")
    file.seek(source.start)
    return file


def _members(file: BinaryIO, header: type[tarfile.TarInfo]) -> Iterator[tarfile.TarInfo]:
    """The members of an archive from the current position of the file on.

    `tarfile` keeps every member that it has seen in memory, so it is restarted after every `REMEMBERED` of them.
    """
    while True:
        archive = tarfile.TarFile(fileobj=file, tarinfo=header, ignore_zeros=True)
        for number, member in enumerate(archive):
            yield member
            if number >= REMEMBERED and member.isreg() and not member.issparse():
                file.seek(member.offset_data + -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE)
                break
        else:
            return


def _content(file: BinaryIO, member: tarfile.TarInfo, losses: _Losses) -> Iterator[bytes]:
    file.seek(member.offset_data)
    left = member.size
    while left:
        block = file.read(min(left, BLOCK))
        if not block:
            losses.is_reported = True
            raise getattr(file, "damage", None) or Damaged("the archive is cut off")
        left -= len(block)
        yield block


class _Forward:
    """A stream as a file that is read from its beginning to its end.

    Attributes:
        damage: reason why it ended early; None if it did not.
    """

    def __init__(self, parts: Iterator[bytes]) -> None:
        self._parts, self._at = parts, 0
        self._block, self._used = b"", 0  # the current block, and how many of its bytes have been read
        self.damage: Damaged | None = None

    def tell(self) -> int:
        return self._at

    def seek(self, place: int) -> int:
        while self._at < place and self.read(min(place - self._at, BLOCK)):
            pass
        return self._at

    def read(self, size: int) -> bytes:
        pieces, left = [], size
        while left:
            if self._used == len(self._block):
                self._block, self._used = self._next(), 0
                if not self._block:
                    break
            piece = self._block[self._used : self._used + left]
            self._used, left = self._used + len(piece), left - len(piece)
            pieces.append(piece)
        self._at += size - left
        return b"".join(pieces)

    def _next(self) -> bytes:
        try:
            return next(self._parts, b"")
        except Damaged as error:
            self.damage = error
            return b""

    def close(self) -> None:
        """Leave the stream to its owner."""


def _counting(losses: _Losses) -> type[tarfile.TarInfo]:
    """A class of headers for `tarfile` that counts the blocks that are not headers."""

    class Header(tarfile.TarInfo):
        @classmethod
        def frombuf(cls, buf: Any, encoding: str, errors: str) -> Any:
            try:
                return super().frombuf(buf, encoding, errors)
            except tarfile.HeaderError:
                losses.n_blocks += len(buf) == tarfile.BLOCKSIZE and any(buf)
                raise

    return Header
