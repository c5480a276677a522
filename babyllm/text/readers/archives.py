"""Archives of files: each file is unpacked on its own, read like any other and then deleted.

archive -> entries, in order -> a temporary file, one at a time -> Source -> the reader of its format
"""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from babyllm.errors import UserError
from babyllm.text.readers.decoding.compressed import Damaged
from babyllm.text.readers.decoding.tar_archives import tar_entries, tar_ranges
from babyllm.text.readers.decoding.zip_archives import zip_entries, zip_ranges
from babyllm.text.readers.formats.table import ARCHIVES, TABLES
from babyllm.text.readers.names import domain_of, file_domain, is_companion, is_hidden, kind, spelled
from babyllm.text.readers.records import Entry, ReadConfig, Rejected, Source, T, accounted, rejected

MAX_DEPTH = 2
LEFT_OUT = "files of the archive that are not read"
TOO_DEEP = "an archive in an archive in an archive: unpack it first"


def read_files(
    source: Source, config: ReadConfig, read: Callable[[Source], Iterator[T | Rejected]]
) -> Iterator[T | Rejected]:
    """The records of a file, or of each file of an archive.

    Hidden files of an archive, those of other formats and those about the data are left out, as in folders. One
    `Rejected` reports how many.

    Args:
        source: the file, or a piece of one.
        config: how files are read.
        read: reader of a file that is not an archive.

    Raises:
        UserError: the file cannot be read, or the disk has no room to unpack one.
    """
    for item in _opened(source, config, 1):
        if isinstance(item, Rejected):
            yield item
        else:
            yield from accounted(item, read(item))


def _opened(source: Source, config: ReadConfig, depth: int) -> Iterator[Source | Rejected]:
    """The file itself, or the files of an archive, each of which exists until the next one is asked for."""
    if source.format not in ARCHIVES:
        yield source
        return
    with tempfile.TemporaryDirectory(prefix="babyllm-") as folder:
        for item in accounted(source, _files(source, config, Path(folder) / "file")):
            if isinstance(item, Rejected) or item.format not in ARCHIVES:
                yield item
            elif depth < MAX_DEPTH:
                yield from _opened(item, config, depth + 1)
            else:
                yield rejected(item.name, TOO_DEEP)


def archive_pieces(source: Source, size: int) -> list[Source]:
    """An archive cut into pieces of about `size` bytes, if its files can be found without reading all of it.

    Raises:
        OSError: the archive cannot be read.
    """
    if source.compression or source.size_bytes <= size:
        return [source]
    ranges = (tar_ranges if source.format == ".tar" else zip_ranges)(source, size)
    if len(ranges) < 2:
        return [source]
    part = source.size_bytes // len(ranges)
    return [replace(source, start=start, end=end, size_bytes=part) for start, end in ranges]


def _files(archive: Source, config: ReadConfig, path: Path) -> Iterator[Source | Rejected]:
    left_out = Counter[str]()
    for entry in (tar_entries if archive.format == ".tar" else zip_entries)(archive):
        parts = [part for part in entry.name.replace("\\", "/").split("/") if part not in ("", ".")]
        if not parts or any(map(is_hidden, parts)):
            continue
        format, compression = kind(parts[-1], config)
        if not format or (is_companion(parts[-1]) and not config.all):
            left_out[parts[-1] if format else os.path.splitext(parts[-1])[1].lower() or "without suffix"] += 1
            continue
        name = "/".join((archive.name, *map(spelled, parts)))
        if entry.obstacle:
            yield rejected(name, entry.obstacle)
            continue
        size, damage = _unpacked(entry, path, name)
        domain = _domain(archive, parts, format, config)
        yield Source(path, name, format, compression, domain, 0, None, size, (size, 0), damage=damage)
        if damage and format in TABLES:  # their readers do not use `blocks`, which would raise it
            yield rejected(name, damage.reason, damage)
    if left_out:
        yield rejected(archive.name, LEFT_OUT, ", ".join(f"{n:,} {what}" for what, n in left_out.most_common()))


def _unpacked(entry: Entry, path: Path, name: str) -> tuple[int, Damaged | None]:
    """Write a file of an archive to the path; returns its size in bytes and its damage, if any."""
    size, damage = 0, None
    with _room(name, path):
        file = path.open("wb", buffering=0)  # so that closing it has nothing left to write
    with file:
        try:
            for block in entry.content:  # outside of `_room`: an error here is one of reading the archive
                size += len(block)
                rest = memoryview(block)
                while rest:  # a disk that is almost full writes only a part
                    with _room(name, path):
                        rest = rest[file.write(rest) :]
        except Damaged as error:
            damage = error
    return size, damage


@contextmanager
def _room(name: str, path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{name}: cannot be unpacked below {path.parent.parent} ({error.strerror or error}); set TMPDIR to a "
            "folder with room, and start the same command again"
        ) from error


def _domain(archive: Source, parts: list[str], format: str, config: ReadConfig) -> str:
    """The domain of a file: the archive's, or that of its folder in an archive that was given by its own path."""
    if archive.domain and config.domain != "file":
        return archive.domain
    folder = os.path.basename(os.path.dirname(os.path.abspath(archive.path)))
    return domain_of(parts, file_domain(archive.path.name) or folder, False, format, config)
