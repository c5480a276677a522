"""The files of .zip archives, found by the archive's directory or, where that is lost, by the head of each file."""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from babyllm.text.readers.decoding.compressed import BLOCK, CHECKSUM, Damaged, member
from babyllm.text.readers.decoding.encodings import recognised
from babyllm.text.readers.records import Entry, Source

HEAD = struct.Struct("<4s5H3L2H")  # mark, version, flags, method, time, date, checksum, sizes, lengths of what follows
MARK = b"PK\3\4"
METHODS = {0: "", 8: "deflate", 12: "bz2", 93: "zstd", 95: "xz"}
ENCRYPTED, SIZES_AFTER, UTF8 = 1, 8, 0x800  # flags
UNKNOWN = 0xFFFFFFFF  # in place of a size that is stored elsewhere
NO_DIRECTORY = "damaged: the directory of the archive is lost, with what it recorded of the files"


@dataclass(frozen=True)
class _File:
    """A file of an archive: `place` is the byte at which its head begins, `stored` its packed size; None if unknown."""

    name: str
    flags: int
    method: int
    place: int
    stored: int | None
    checksum: int | None


def zip_entries(source: Source) -> Iterator[Entry]:
    """The files of an archive, or of a piece of one, in the order in which they are stored.

    Raises:
        Damaged: the directory is lost; raised after the last file.
        OSError: the archive cannot be read.
    """
    with source.path.open("rb") as file:
        files = _directory(file)
        for found in _heads(file) if files is None else files[source.start : source.end]:
            if not found.name.endswith("/"):
                yield Entry(found.name, _content(file, found), _obstacle(found))
        if files is None:
            raise Damaged("no directory at its end", NO_DIRECTORY)


def zip_ranges(source: Source, size: int) -> list[tuple[int, int]]:
    """Pieces of about `size` bytes into which an archive can be cut: (index of the first file, end)."""
    with source.path.open("rb") as file:
        files = _directory(file)
    if not files:  # the reader will report it
        return []
    cuts, since = [0], files[0].place
    for number, found in enumerate(files):
        if found.place - since >= size:
            cuts.append(number)
            since = found.place
    return list(zip(cuts, [*cuts[1:], len(files)], strict=True))


def _directory(file: BinaryIO) -> list[_File] | None:
    """The files that the archive's directory lists; None if it has no directory."""
    try:
        with zipfile.ZipFile(file) as archive:
            infos = sorted(archive.infolist(), key=lambda info: info.header_offset)
    except (zipfile.BadZipFile, ValueError, struct.error, NotImplementedError):  # the last for a newer version's
        return None
    return [
        _File(
            _named(i.orig_filename, i.flag_bits), i.flag_bits, i.compress_type, i.header_offset, i.compress_size, i.CRC
        )
        for i in infos
    ]


def _named(name: str, flags: int) -> str:
    """The name of a file; older programs wrote it in the encoding of their machine."""
    if flags & UTF8 or name.isascii():
        return name
    raw = name.encode("cp437")
    encoding = "utf-8" if _is_utf8(raw) else recognised([raw]) or "gb18030"
    return raw.decode(encoding, "backslashreplace")


def _is_utf8(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True


def _heads(file: BinaryIO) -> Iterator[_File]:
    """The files of an archive without directory, found by their heads one after the other."""
    place = 0
    while (place := _next_mark(file, place)) >= 0:
        file.seek(place)
        head = file.read(HEAD.size)
        if len(head) < HEAD.size:
            return
        _, _, flags, method, _, _, checksum, stored, _, n_name, n_extra = HEAD.unpack(head)
        name = file.read(n_name).decode("utf-8" if flags & UTF8 else "cp437", "replace")
        is_known = not flags & SIZES_AFTER and stored != UNKNOWN
        yield _File(_named(name, flags), flags, method, place, *((stored, checksum) if is_known else (None, None)))
        place += HEAD.size + n_name + n_extra + (stored if is_known else 0)


def _next_mark(file: BinaryIO, place: int) -> int:
    """The byte at which the next head begins; -1 if there is none."""
    while True:
        file.seek(place)
        window = file.read(BLOCK)
        if (at := window.find(MARK)) >= 0:
            return place + at
        if len(window) < BLOCK:
            return -1
        place += len(window) - len(MARK) + 1


def _obstacle(found: _File) -> str:
    """Why a file cannot be read; empty if it can."""
    if found.flags & ENCRYPTED:
        return "encrypted: unpack the archive first"
    if found.method not in METHODS or (not METHODS[found.method] and found.stored is None):
        return f"packed by a method that is not supported (method {found.method})"
    return ""


def _content(file: BinaryIO, found: _File) -> Iterator[bytes]:
    file.seek(found.place)
    head = file.read(HEAD.size)
    if len(head) < HEAD.size or not head.startswith(MARK):
        raise Damaged("the head of a file is lost")
    *_, n_name, n_extra = HEAD.unpack(head)
    begin = found.place + HEAD.size + n_name + n_extra
    method, checksum = METHODS[found.method], 0
    for block in member(file, method, begin) if method else _stored(file, begin, found.stored or 0):
        checksum = zlib.crc32(block, checksum)
        yield block
    if found.checksum not in (None, checksum):
        raise Damaged("the checksum differs", CHECKSUM, True)


def _stored(file: BinaryIO, begin: int, size: int) -> Iterator[bytes]:
    file.seek(begin)
    while size:
        block = file.read(min(size, BLOCK))
        if not block:
            raise Damaged("the archive is cut off")
        size -= len(block)
        yield block
