"""The files to read, cut and gathered into partitions of about the same size.

paths -> files, sorted by name -> large ones cut into pieces, small ones gathered -> partitions
"""

from __future__ import annotations

import codecs
import hashlib
import json
import os
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count, pairwise
from pathlib import Path

from babyllm.documents import Document
from babyllm.errors import UserError
from babyllm.store.chat_folders import is_chat_files, open_chat_files
from babyllm.store.corpus import MANIFEST, PART_MARK, is_corpus, open_corpus
from babyllm.store.parquet import FAULTS, open_parquet
from babyllm.text.readers.archives import archive_pieces
from babyllm.text.readers.decoding.encodings import is_wide
from babyllm.text.readers.decoding.streams import encoding_of
from babyllm.text.readers.formats.json_values import holds_lines
from babyllm.text.readers.formats.table import ARCHIVES, COMPRESSIONS, FORMATS, READABLE, format_of
from babyllm.text.readers.formats.text_files import can_be_cut, separator_of
from babyllm.text.readers.limit import limit_of, taken
from babyllm.text.readers.names import domain_of, is_companion, is_hidden, kind, spelled
from babyllm.text.readers.read import read_source
from babyllm.text.readers.records import ReadConfig, Rejected, Source, unreadable

UNREAD_ARCHIVES = (".rar", ".7z", ".z", ".cab", ".iso")
HEAD = 4096  # bytes by which the format of a file without suffix is detected
WHOLE_FILES = 1 << 62  # bytes of a partition at which no file is cut


@dataclass(frozen=True)
class Partition:
    """Pieces of files that one process reads at a time.

    Attributes:
        sources: pieces to read, in order.
        size_bytes: their total size as stored; for Parquet, as unpacked.
    """

    sources: tuple[Source, ...]
    size_bytes: int


def find_partitions(paths: Sequence[Path], config: ReadConfig, partition_bytes: int) -> list[Partition]:
    """Partitions of all readable files at the paths, in order of their names; hidden files are left out.

    Args:
        paths: files and folders.
        config: how files will be read.
        partition_bytes: approximate size of a partition; a larger file is cut if it is an uncompressed file of lines,
            a Parquet file or an uncompressed archive.

    Raises:
        UserError: a path does not exist, is given twice or holds nothing that can be read; a file cannot be opened; a
            setting is invalid.
    """
    _check(config)
    skipped: Counter[str] = Counter()
    sources = taken(_found(paths, config, skipped), config)
    if not sources:
        others = ", ".join(f"{n:,} {kind}" for kind, n in sorted(skipped.items()))
        raise UserError(
            f"{', '.join(map(str, paths))}: nothing to read here ({others or 'no files'}); what can be read ends in "
            f"{READABLE}, also with {', '.join(COMPRESSIONS)} after it, or in anything with a --read.suffix, such as "
            ".txt"
        )
    _refuse_unfinished([source for source in sources if source.path not in paths])
    sources.sort(key=lambda source: source.name)
    pieces = [piece for source in sources for piece in _pieces(source, config, partition_bytes)]
    return list(_gathered(pieces, partition_bytes))


def left_out(paths: Sequence[Path], config: ReadConfig | None = None) -> dict[str, int]:
    """Numbers of files that `find_partitions` leaves out, by suffix; files about the data are counted by name.

    A hidden folder counts as one under "hidden".

    Raises:
        UserError: a path does not exist or is given twice; a file or folder cannot be opened.
    """
    skipped: Counter[str] = Counter()
    for _ in _found(paths, replace(config or ReadConfig(), limit=None), skipped):
        pass
    return dict(sorted(skipped.items()))


def read_partition(
    partition: Partition, config: ReadConfig, notes: Counter[str] | None = None
) -> Iterator[Document | Rejected]:
    """Every record of a partition in order, as a document or as a `Rejected` with the reason.

    Args:
        partition: pieces to read.
        config: how they are read.
        notes: counter of documents with a noteworthy property, by its description; it is updated.

    Raises:
        UserError: a file cannot be read, or the disk has no room to unpack one.
    """
    for source in partition.sources:
        yield from read_source(source, config, notes)


def key_of(partitions: Sequence[Partition]) -> str:
    """A sha256 in hexadecimal that changes when a file is added, removed, changed or cut differently."""
    digest = hashlib.sha256()
    for partition in partitions:
        row = [
            [s.name, s.format, s.domain, s.start, s.end, s.stamp, *([s.documents] if s.documents else [])]
            for s in partition.sources
        ]
        digest.update(json.dumps(row).encode())
    return digest.hexdigest()


def _check(config: ReadConfig) -> None:
    limit_of(config)
    if config.separator is not None and (config.txt != "file" or not config.separator):
        raise UserError(
            f"--read.separator={config.separator}: give the text between documents, and leave out --read.txt"
        )
    if config.suffix is not None and config.suffix not in FORMATS:
        raise UserError(f"--read.suffix={config.suffix}: write one of {', '.join(n for n in FORMATS if n != 'corpus')}")
    if config.max_record_bytes < 1:
        raise UserError(f"--read.max_record_bytes={config.max_record_bytes}: give a number of bytes above 0")
    if config.encoding != "auto":
        try:
            b"".decode(codecs.lookup(config.encoding).name)
        except LookupError:
            raise UserError(
                f"--read.encoding={config.encoding}: no such encoding; write auto, utf-8, gb18030, big5 ..."
            ) from None


# ---- files


def _roots(paths: Sequence[Path]) -> list[tuple[Path, str]]:
    """The paths with their names in ids: the shortest suffixes of equal depth that distinguish them.

    A single directory of chat files has none.
    """
    real = [path.resolve() for path in paths]
    for path, given in zip(real, paths, strict=True):
        if not path.exists():
            raise UserError(f"{given}: does not exist; give files or folders with raw text")
        if real.count(path) > 1 or any(other in path.parents for other in real):
            raise UserError(f"{given}: is given twice, by itself or as part of another path; leave it out once")
    absolute = [Path(os.path.abspath(path)) for path in paths]
    if len(paths) == 1 and is_chat_files(paths[0]):  # stage after stage keeps the names of the files
        return [(paths[0], "")]
    for depth in count(1):
        labels = ["/".join(part.strip("/\\") for part in path.parts[-depth:]) for path in absolute]
        if len(set(labels)) == len(labels):
            return list(zip(paths, labels, strict=True))
    raise AssertionError


def _found(paths: Sequence[Path], config: ReadConfig, skipped: Counter[str]) -> Iterator[Source]:
    """The whole files at the paths in order of their names, as they are found.

    Files about the data, such as a README.md, are left out unless there is nothing else.
    """
    beside: list[Source] = []
    has_data = False
    for path, label in sorted(_roots(paths), key=lambda root: root[1] + "/" * root[0].is_dir()):
        if not path.is_dir():
            has_data = True
            yield _named(path, label, config)
            continue
        for source in _below(path, label, config, skipped):
            if not config.all and source.format != "corpus" and is_companion(source.path.name):
                skipped[spelled(source.path.name)] += 1
                beside += [source] * (not has_data)
                continue
            has_data = True
            yield source
    if not has_data:
        skipped.subtract(spelled(source.path.name) for source in beside)
        yield from beside


def _named(path: Path, label: str, config: ReadConfig) -> Source:
    """The file at a path that was given."""
    format, compression = kind(path.name, config)
    if not format and not path.suffix and not compression:
        format = _format_by_content(path)
    if not format and path.suffix.lower() in UNREAD_ARCHIVES:
        raise UserError(f"{path}: an archive of a kind that is not read; unpack it, or pack its files as .zip or .tar")
    if not format:
        raise UserError(
            f"{path}: a file of a kind that is not read; known suffixes are {READABLE}; --read.suffix names the one to "
            "read it as, such as .txt"
        )
    folder = os.path.basename(os.path.dirname(os.path.abspath(path)))
    # Each file of an archive has a domain of its own.
    domain = "" if format in ARCHIVES else domain_of([path.name], folder, True, format, config)
    format = "corpus" if format == ".parquet" and is_corpus(path.parent) else format
    return _source(path, label, format, compression, domain)


def _format_by_content(path: Path) -> str:
    """The format of a file without suffix; empty if it holds no text."""
    try:
        with path.open("rb") as file:
            head = file.read(HEAD).removeprefix(codecs.BOM_UTF8).lstrip()
    except OSError:  # the reader will report it
        return ".txt"
    if b"\0" in head or not head.strip():
        return ".parquet" if head.startswith(b"PAR1") else ""
    beginnings = {
        b"{": ".jsonl",
        b"[{": ".json",
        b"<!doctype html": ".html",
        b"<html": ".html",
        b"<mediawiki": ".xml",
        b"warc/1.": ".warc",
    }
    return next((format for begin, format in beginnings.items() if head.lower().startswith(begin)), ".txt")


def _below(root: Path, label: str, config: ReadConfig, skipped: Counter[str]) -> Iterator[Source]:
    """The files below a folder, whole."""
    folder = os.path.basename(os.path.abspath(root))
    for path, parts, format, compression in _walk(root, (), config, skipped, frozenset()):
        domain = domain_of(parts, folder, False, format, config)
        yield _source(path, "/".join((*([label] if label else []), *parts)), format, compression, domain)


def _walk(
    folder: Path, parts: tuple[str, ...], config: ReadConfig, skipped: Counter[str], above: frozenset[str]
) -> Iterator[tuple[Path, tuple[str, ...], str, str]]:
    """Files to read below a folder: path, parts of the name, format, compression; or what a manifest lists."""
    real = os.path.realpath(folder)
    if real in above:  # a link to a folder that holds it
        return
    if is_corpus(folder):
        files = sorted(part.file for part in open_corpus(folder).parts)
        yield from ((folder / file, (*parts, file), "corpus", "") for file in files)
        return
    if is_chat_files(folder):  # the reports beside the files are left out
        for name in sorted(chats.file for chats in open_chat_files(folder).files):
            yield folder / name, (*parts, *name.split("/")), *kind(name, config)
        return
    for name, path, is_folder, is_link, is_file in _entries(folder):
        if is_hidden(name):
            skipped["hidden"] += 1
            continue
        format, compression = kind(name, config)
        if is_folder:
            yield from _walk(Path(path), (*parts, name), config, skipped, above | {real})
        elif not format:
            skipped[os.path.splitext(name)[1].lower() or "without suffix"] += 1
        elif is_link or is_file:
            yield Path(path), (*parts, name), format, compression
        else:
            skipped["not a file"] += 1  # reading a pipe would never end


def _entries(folder: Path) -> list[tuple[str, str, bool, bool, bool]]:
    """The entries of a folder in order of their full names: name, path, is it a folder, a link, a file."""
    try:
        with os.scandir(folder) as entries:
            found = [(e.name, e.path, os.path.isdir(e.path), e.is_symlink(), os.path.isfile(e.path)) for e in entries]
    except OSError as error:
        raise UserError(f"{folder}: cannot be listed: {error.strerror}; fix its permissions or leave it out") from None
    return sorted(found, key=lambda entry: spelled(entry[0]) + "/" * entry[2])


def _refuse_unfinished(sources: Sequence[Source]) -> None:
    """Refuse parts of a corpus that no manifest describes: others of its parts may be missing.

    Raises:
        UserError: there is such a part.
    """
    for path in (source.path for source in sources if source.format == ".parquet"):
        try:
            with open_parquet(path) as file:
                is_part = PART_MARK in (file.metadata.metadata or {})
        except FAULTS:  # the reader will report it
            continue
        if is_part:
            raise UserError(
                f"{path}: is part of a corpus that was never finished or is damaged: {path.parent / MANIFEST} does not "
                "describe it; run the command that makes it again, or name the files to read them as they are"
            )


def _source(path: Path, name: str, format: str, compression: str, domain: str) -> Source:
    try:
        info = path.stat()
        is_file = stat.S_ISREG(info.st_mode)
        if is_file:
            path.open("rb").close()  # an unreadable file is reported now rather than after hours of work
    except OSError as error:
        raise unreadable(path, error) from error
    size, changed = (info.st_size, info.st_mtime_ns) if is_file else (0, 0)
    return Source(path, spelled(name), format, compression, domain, 0, None, size, (size, changed))


# ---- pieces


def _pieces(source: Source, config: ReadConfig, partition_bytes: int) -> list[Source]:
    if source.documents is not None:
        return [source]
    if source.format in ARCHIVES:
        return _archive_pieces(source, partition_bytes)
    pieces = format_of(source.format, config).pieces
    if pieces == "row groups":
        return _row_groups(source, partition_bytes)
    can_be_found = not source.compression or (pieces == "pages" and source.compression == "bz2")
    if pieces and can_be_found and source.size_bytes > partition_bytes:
        try:
            if pieces != "pages" and (is_wide(encoding_of(source, config)) or not _has(pieces, source, config)):
                return [source]
        except OSError as error:
            raise unreadable(source.path, error) from error
        n = -(-source.size_bytes // partition_bytes)
        bounds = [source.size_bytes * i // n for i in range(n + 1)]
        return [replace(source, start=start, end=end, size_bytes=end - start) for start, end in pairwise(bounds)]
    return [source]


def _archive_pieces(source: Source, partition_bytes: int) -> list[Source]:
    try:
        return archive_pieces(source, partition_bytes)
    except OSError as error:
        raise unreadable(source.path, error) from error


def _has(pieces: str, source: Source, config: ReadConfig) -> bool:
    """Whether a file holds the boundaries at which its format may be cut."""
    if pieces == "json lines":
        return holds_lines(source, config)
    return pieces == "lines" or can_be_cut(separator_of(source, config))


def _row_groups(source: Source, partition_bytes: int) -> list[Source]:
    try:
        with open_parquet(source.path) as file:
            sizes = [file.metadata.row_group(i).total_byte_size for i in range(file.metadata.num_row_groups)]
    except FAULTS:  # the reader will report it
        return [source]
    pieces, start, size = [], 0, 0
    for i, group in enumerate(sizes):
        if size and size + group > partition_bytes:
            pieces.append(replace(source, start=start, end=i, size_bytes=size))
            start, size = i, 0
        size += group
    end = len(sizes) if pieces else None
    return [*pieces, replace(source, start=start, end=end, size_bytes=size)]


def _gathered(pieces: Sequence[Source], partition_bytes: int) -> Iterator[Partition]:
    sources: list[Source] = []
    size = 0
    for piece in pieces:
        if sources and size + piece.size_bytes > partition_bytes:
            yield Partition(tuple(sources), size)
            sources, size = [], 0
        sources.append(piece)
        size += piece.size_bytes
    yield Partition(tuple(sources), size)
