"""What there is to read: files and folders, cut and gathered into partitions of about the same size.

paths -> files, sorted by name -> large ones cut into pieces, small ones gathered -> partitions
"""

from __future__ import annotations

import codecs
import hashlib
import json
import os
import re
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count, pairwise
from pathlib import Path

from babyllm.errors import UserError
from babyllm.text.corpus import MANIFEST, PART_MARK, is_corpus, open_corpus
from babyllm.text.documents import Document
from babyllm.text.parquet import FAULTS, open_parquet
from babyllm.text.readers.formats import COMPRESSIONS, FORMATS, format_of, read_source
from babyllm.text.readers.records import ReadConfig, Rejected, Source
from babyllm.text.readers.streams import Damaged, encoding_of, is_wide

SHARD_NUMBER = re.compile(r"(?:[-_.]?(?:part|shard)?[-_.]?\d+(?:[-_.]?of[-_.]?\d+)?)$", re.IGNORECASE)


@dataclass(frozen=True)
class Partition:
    """Pieces of files that one process reads at a time.

    Attributes:
        sources: what is read, in order.
        size_bytes: how much that is, as stored; of Parquet, as unpacked.
    """

    sources: tuple[Source, ...]
    size_bytes: int


def find_partitions(paths: Sequence[Path], config: ReadConfig, partition_bytes: int) -> list[Partition]:
    """Everything readable at the paths, in the order of its names; hidden files and other formats are left out.

    Args:
        paths: files and folders.
        config: how files will be read.
        partition_bytes: of a partition, about; an uncompressed file of lines or a Parquet file that is larger is cut.

    Raises:
        UserError: a path does not exist, is given twice or holds nothing that can be read; a setting makes no sense.
    """
    _check(config)
    sources: list[Source] = []
    skipped: Counter[str] = Counter()
    for path, label in _roots(paths):
        sources += _sources(path, label, config, skipped)
    if not sources:
        others = ", ".join(f"{n:,} {kind}" for kind, n in sorted(skipped.items()))
        raise UserError(
            f"{', '.join(map(str, paths))}: nothing to read here ({others or 'no files'}); what can be read ends in "
            f"{', '.join(name for name in FORMATS if name != 'corpus')}, alone or with {', '.join(COMPRESSIONS)} behind"
        )
    _refuse_unfinished([source for source in sources if source.path not in paths])
    sources.sort(key=lambda source: source.name)
    pieces = [piece for source in sources for piece in _pieces(source, config, partition_bytes)]
    return list(_gathered(pieces, partition_bytes))


def left_out(paths: Sequence[Path]) -> dict[str, int]:
    """How many files below the paths `find_partitions` leaves out, by suffix; "hidden" counts hidden folders as one."""
    skipped: Counter[str] = Counter()
    for path, label in _roots(paths):
        _sources(path, label, ReadConfig(), skipped)
    return dict(sorted(skipped.items()))


def read_partition(partition: Partition, config: ReadConfig) -> Iterator[Document | Rejected]:
    """Every record of a partition, as a document or with the reason why it is none, in order."""
    for source in partition.sources:
        yield from read_source(source, config)


def key_of(partitions: Sequence[Partition]) -> str:
    """A digest that is another one when a file is added, removed, changed, or cut differently."""
    digest = hashlib.sha256()
    for partition in partitions:
        row = [[s.name, s.format, s.domain, s.start, s.end, s.stamp] for s in partition.sources]
        digest.update(json.dumps(row).encode())
    return digest.hexdigest()


def _check(config: ReadConfig) -> None:
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
    """The paths with the names by which ids call them: as many of their last parts as tell them apart."""
    real = [path.resolve() for path in paths]
    for path, given in zip(real, paths, strict=True):
        if not path.exists():
            raise UserError(f"{given}: does not exist; give files or folders with raw text")
        if real.count(path) > 1 or any(other in path.parents for other in real):
            raise UserError(f"{given}: is given twice, by itself or as part of another path; leave it out once")
    absolute = [Path(os.path.abspath(path)) for path in paths]
    for depth in count(1):
        labels = ["/".join(part.strip("/\\") for part in path.parts[-depth:]) for path in absolute]
        if len(set(labels)) == len(labels):
            return list(zip(paths, labels, strict=True))
    raise AssertionError


def _sources(root: Path, label: str, config: ReadConfig, skipped: Counter[str]) -> list[Source]:
    """The files at a path, whole."""
    if not root.is_dir():
        format, compression = _kind(root.name)
        if not format:
            raise UserError(
                f"{root}: a file of a kind that is not read; known are "
                f"{', '.join(name for name in FORMATS if name != 'corpus')}"
            )
        format = "corpus" if format == ".parquet" and is_corpus(root.parent) else format
        return [_source(root, label, format, compression, _domain([root.name], None, format, config))]
    found = []
    folder = os.path.basename(os.path.abspath(root))
    for path, parts, format, compression in _walk(root, (), skipped, set()):
        domain = _domain(parts, folder, format, config)
        found.append(_source(path, "/".join((label, *parts)), format, compression, domain))
    return found


def _walk(
    folder: Path, parts: tuple[str, ...], skipped: Counter[str], above: set[str]
) -> Iterator[tuple[Path, tuple[str, ...], str, str]]:
    """Files to read below a folder: path, parts of the name, format, compression; of a corpus, those it describes."""
    real = os.path.realpath(folder)
    if real in above:  # a link to a folder that holds it
        return
    if is_corpus(folder):
        yield from ((folder / part.file, (*parts, part.file), "corpus", "") for part in open_corpus(folder).parts)
        return
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f"{folder}: cannot be listed: {error.strerror}; mend its permissions or leave it out") from None
    for entry in entries:
        if entry.name.startswith("."):
            skipped["hidden"] += 1
            continue
        format, compression = _kind(entry.name)
        is_link = entry.is_symlink()
        if os.path.isdir(entry.path) if is_link else entry.is_dir():
            yield from _walk(Path(entry.path), (*parts, entry.name), skipped, above | {real})
        elif not format:
            skipped[os.path.splitext(entry.name)[1].lower() or "without suffix"] += 1
        elif is_link or entry.is_file():
            yield Path(entry.path), (*parts, entry.name), format, compression
        else:
            skipped["not a file"] += 1  # reading a pipe would never end


def _kind(name: str) -> tuple[str, str]:
    """Format and compression of a file by its name; no format if it is unknown."""
    stem, suffix = os.path.splitext(name.lower())
    compression = COMPRESSIONS.get(suffix, "")
    suffix = os.path.splitext(stem)[1] if compression else suffix
    return (suffix if suffix in FORMATS and not (compression and suffix == ".parquet") else "", compression)


def _refuse_unfinished(sources: Sequence[Source]) -> None:
    """Refuse parts of a corpus whose description is gone or was never written: some of them may be missing.

    Raises:
        UserError: there is such a part.
    """
    for path in (source.path for source in sources if source.format == ".parquet"):
        try:
            with open_parquet(path) as file:
                is_part = PART_MARK in (file.metadata.metadata or {})
        except FAULTS:  # reading it will tell
            continue
        if is_part:
            raise UserError(
                f"{path}: is part of a corpus that was never finished or is damaged: {path.parent / MANIFEST} does not "
                "describe it; run the command that makes it again, or name the files to read them as they are"
            )


def _domain(parts: Sequence[str], folder: str | None, format: str, config: ReadConfig) -> str:
    """The domain of a file: `parts` are its folders below the given one, and its name; `folder` that one's name."""
    by_name = _file_domain(parts[-1])
    if config.domain == "file":
        domain = by_name
    elif config.domain in ("auto", "folder") or config.domain.startswith("field:"):
        is_folders = folder is not None and (config.domain == "folder" or format_of(format, config).is_one_document)
        domain = parts[0] if len(parts) > 1 else folder if folder and is_folders else by_name
    else:
        domain = config.domain
    return _spelled(domain)


def _file_domain(name: str) -> str:
    """The name of a file without suffixes and number: wiki-00001-of-00008.jsonl.gz is wiki."""
    stem = name.rpartition("/")[2]
    while _kind(stem)[0] or os.path.splitext(stem)[1].lower() in (*FORMATS, *COMPRESSIONS):
        stem = os.path.splitext(stem)[0]
    return SHARD_NUMBER.sub("", stem) or stem


def _spelled(name: str) -> str:
    """A name as valid text: some file systems allow any bytes."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _source(path: Path, name: str, format: str, compression: str, domain: str) -> Source:
    try:
        info = path.stat()
        size, changed = (info.st_size, info.st_mtime_ns) if stat.S_ISREG(info.st_mode) else (0, 0)
    except OSError:  # it vanished, or is a link that leads nowhere; reading it will tell
        size, changed = 0, 0
    return Source(path, _spelled(name), format, compression, domain, 0, None, size, (size, changed))


# ---- pieces


def _pieces(source: Source, config: ReadConfig, partition_bytes: int) -> list[Source]:
    pieces = format_of(source.format, config).pieces
    if pieces == "row groups":
        return _row_groups(source, partition_bytes)
    if pieces == "lines" and not source.compression and source.size_bytes > partition_bytes:
        try:
            if is_wide(encoding_of(source, config)):
                return [source]
        except (OSError, Damaged):  # reading it will tell
            return [source]
        n = -(-source.size_bytes // partition_bytes)
        bounds = [source.size_bytes * i // n for i in range(n + 1)]
        return [replace(source, start=start, end=end, size_bytes=end - start) for start, end in pairwise(bounds)]
    return [source]


def _row_groups(source: Source, partition_bytes: int) -> list[Source]:
    try:
        with open_parquet(source.path) as file:
            sizes = [file.metadata.row_group(i).total_byte_size for i in range(file.metadata.num_row_groups)]
    except FAULTS:  # reading it will tell
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
