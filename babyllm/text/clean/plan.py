"""How long cleaning will take, with how much memory and disk, from samples of its input."""

from __future__ import annotations

import bz2
import lzma
import tempfile
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from babyllm.pipeline.estimate import Sample, Work, estimate, estimates_report
from babyllm.pipeline.partitions import WorkConfig
from babyllm.pipeline.report import Report
from babyllm.store.parquet import FAULTS, open_parquet
from babyllm.text.clean.filters import CleanConfig, check_names
from babyllm.text.clean.stage import LoadScorer, clean_partitions, describe
from babyllm.text.readers import Partition, ReadConfig, find_partitions, require_fields
from babyllm.text.readers.decoding.compressed import Damaged
from babyllm.text.readers.decoding.streams import blocks
from babyllm.text.readers.formats.table import ARCHIVES, TABLES
from babyllm.text.readers.records import Source
from babyllm.text.takedowns import find_takedowns

_PACK: dict[str, Callable[[bytes], bytes]] = {"gzip": zlib.compress, "bz2": bz2.compress, "xz": lzma.compress}
_TOO_LARGE = 2  # times the wanted bytes of an item, from which only the beginning of a file is taken


def plan_clean(
    inputs: Sequence[Path],
    config: CleanConfig,
    *,
    read: ReadConfig | None = None,
    work: WorkConfig | None = None,
    load_scorer: LoadScorer | None = None,
    takedowns: Sequence[Path] = (),
) -> Report:
    """How long `clean` will take with these arguments, with how much memory and disk; takes about half a minute.

    Raises:
        UserError: an input or a setting is wrong, or nothing of the sample stays.
    """
    read, work = read or ReadConfig(), work or WorkConfig()
    begin = time.perf_counter()
    check_names(config.filters)
    refused = find_takedowns(inputs, takedowns)
    about = describe(inputs, config, read) | refused.about()
    partitions = find_partitions(inputs, read, work.partition_bytes)
    require_fields(partitions, read)
    seconds = time.perf_counter() - begin

    def stage(items: Sequence[Partition], out: Path, how: WorkConfig) -> None:
        clean_partitions(items, inputs, out, config, read, how, load_scorer, refused, about)

    with tempfile.TemporaryDirectory(prefix="babyllm-sample-") as folder:

        def draw(n: int, size: int) -> Sample[Partition]:
            return draw_sample(inputs, read, n, size, Path(folder))

        what = Work(stage, draw, [partition.size_bytes for partition in partitions], seconds)
        found = estimate(what, work)
    return estimates_report(f"Plan of cleaning {', '.join(map(str, inputs))}", what, found, work)


def draw_sample(inputs: Sequence[Path], read: ReadConfig, n: int, size: int, folder: Path) -> Sample[Partition]:
    """Parts of the input at equal distances.

    Args:
        inputs: files, folders and corpora.
        read: settings of the readers.
        n: number of parts; there are fewer if the input cannot be cut into as many.
        size: bytes of each, roughly. Of a large file that cannot be cut, it is the beginning.
        folder: existing folder for beginnings of files.
    """
    pieces = find_partitions(inputs, read, size)
    count = min(n, len(pieces))
    chosen = [pieces[(2 * i + 1) * len(pieces) // (2 * count)] for i in range(count)]
    items = [_beginning(piece, size, folder / f"{number}") for number, piece in enumerate(chosen)]
    return Sample(items, sum(item.size_bytes for item in items))


def _beginning(piece: Partition, size: int, path: Path) -> Partition:
    """The beginning of a partition that is one large file, which cannot be cut so small; others as they are."""
    source = piece.sources[0]
    is_whole = len(piece.sources) > 1 or source.format in ARCHIVES or source.documents is not None
    if is_whole or piece.size_bytes < _TOO_LARGE * size:
        return piece
    if source.format in (".parquet", "corpus"):
        rows = _rows(source)
        documents = max(1, rows * size // piece.size_bytes)
        size = max(1, piece.size_bytes * documents // max(1, rows))
        return Partition((replace(source, documents=documents, size_bytes=size),), size)
    if source.format in TABLES:
        return piece
    data, stored = _head(source, size)
    path.write_bytes(data)
    head = replace(source, path=path, compression="", start=0, end=None, size_bytes=stored)
    return Partition((replace(head, stamp=(len(data), 0)),), stored)


def _rows(source: Source) -> int:
    """The number of rows of a piece of a Parquet file; 0 if it cannot be read."""
    try:
        with open_parquet(source.path) as file:
            groups = range(source.start, file.metadata.num_row_groups if source.end is None else source.end)
            return sum(file.metadata.row_group(number).num_rows for number in groups)
    except FAULTS:
        return 0


def _head(source: Source, size: int) -> tuple[bytes, int]:
    """The first lines of a file, of about `size` stored bytes, and how many these are."""
    data, stored = b"", 0
    try:
        for block in blocks(source, source.start):
            data += block
            stored += len(_PACK.get(source.compression, zlib.compress)(block)) if source.compression else len(block)
            if stored >= size:
                break
    except Damaged:
        pass
    keep = data.rfind(b"\n") + 1 or len(data)
    return data[:keep], max(1, stored * keep // max(1, len(data)))
