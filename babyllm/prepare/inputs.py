"""The inputs of an offline command: corpora, or files of the readers, in partitions of bounded size for workers.

corpus      -> row groups of its Parquet files -+
other files -> partitions of the readers -------+-> documents
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa

from babyllm.documents import Document
from babyllm.errors import UserError
from babyllm.files import sha256
from babyllm.pipeline.output import REJECTED
from babyllm.prepare.encode import BATCH_DOCUMENTS, Batch, batches
from babyllm.store.corpus import (
    COLUMNS,
    MANIFEST,
    RowGroups,
    documents_in,
    is_corpus,
    open_corpus,
    read_rows,
    row_groups,
)
from babyllm.text.readers import (
    Partition,
    ReadConfig,
    Rejected,
    find_partitions,
    key_of,
    read_partition,
    require_fields,
)
from babyllm.text.takedowns import NO_TAKEDOWNS, Takedowns

# Partitions get smaller towards the end, so no core waits long for the last one (Polychronopoulos and Kuck 1987).
PIECE_BYTES = 16 << 20
PIECE_SHARE = 1 / 16


Source = RowGroups | Partition


def find_sources(paths: Sequence[Path], read: ReadConfig, partition_bytes: int) -> list[Source]:
    """The partitions of all inputs: those of the corpora in their order, then those of the other files by name.

    Args:
        paths: corpora, and files or directories for the readers.
        read: settings of the readers.
        partition_bytes: bytes of input in one partition; a row group is never split.

    Raises:
        UserError: an input does not exist, is given twice, is damaged or holds nothing to read.
    """
    real = [path.resolve() for path in paths]
    for place, path in zip(real, paths, strict=True):
        if real.count(place) > 1 or any(other in place.parents for other in real):
            raise UserError(f"{path}: is given twice, by itself or as part of another path; leave it out once")
    # The readers read a corpus where settings change its domains or limit its documents.
    corpora = [path for path in paths if is_corpus(path) and read.domain == "auto" and read.limit is None]
    others = [path for path in paths if path not in corpora]
    sources: list[Source] = []
    parts = [(path / part.file, part) for path in corpora for part in open_corpus(path).parts]
    left = sum(count.bytes for _, part in parts for count in part.domains.values())
    for file, part in parts:
        at_most = min(partition_bytes, PIECE_BYTES, round(left * PIECE_SHARE))
        sources += row_groups(file, at_most)
        left -= sum(count.bytes for count in part.domains.values())
    found = find_partitions(others, read, partition_bytes) if others else []
    require_fields(found, read)
    return [*sources, *found]


def read_source(source: Source, read: ReadConfig) -> Iterator[Document | Rejected]:
    """The documents of one partition, in order, and the rejected records.

    Raises:
        UserError: a file cannot be read, or a file of a corpus is damaged.
    """
    if isinstance(source, RowGroups):
        for batch in _record_batches(source, COLUMNS):
            yield from documents_in(batch)
    else:
        yield from read_partition(source, read)


def _record_batches(source: RowGroups, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    return read_rows(source.path, columns, range(source.begin, source.end), BATCH_DOCUMENTS)


def documents_of(
    source: Source,
    read: ReadConfig,
    rejected: Counter[str],
    folder: Path | None,
    takedowns: Takedowns = NO_TAKEDOWNS,
) -> Iterator[Document]:
    """The documents of one partition; `rejected` counts the other records by reason.

    Args:
        source: partition to read.
        read: settings of the readers.
        rejected: counter of the rejected records, which is updated.
        folder: folder for a `rejected.jsonl` with these records, if there are any; None writes no file.
        takedowns: documents to reject.

    Raises:
        UserError: a file cannot be read or is damaged.
    """
    for record in takedowns.refuse(read_source(source, read)):
        if isinstance(record, Document):
            yield record
            continue
        rejected[record.reason] += 1
        if folder is not None:
            with open(folder / REJECTED, "a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(record), ensure_ascii=False) + "\n")


def batches_of(
    source: Source,
    read: ReadConfig,
    rejected: Counter[str],
    folder: Path | None,
    takedowns: Takedowns = NO_TAKEDOWNS,
) -> Iterator[Batch]:
    """The same in batches. A corpus is read without making a `Document` for each, which would take a tenth of the time.

    Raises:
        UserError: a file cannot be read or is damaged, or a text is not valid Unicode.
    """
    if takedowns or not isinstance(source, RowGroups):
        yield from batches(documents_of(source, read, rejected, folder, takedowns))
        return
    for batch in _record_batches(source, ["text", "domain"]):
        yield batch.column("text").cast(pa.large_binary()).to_pylist(), batch.column("domain").to_pylist()


def identity(paths: Sequence[Path], sources: Sequence[Source]) -> list[Any]:
    """JSON values that change when the inputs do: the sha256 of each `corpus.json`, size and time of other files."""
    corpora = [sha256(path / MANIFEST) for path in paths if is_corpus(path)]
    files = {(s.name, *s.stamp) for partition in sources if isinstance(partition, Partition) for s in partition.sources}
    return [*corpora, *(list(file) for file in sorted(files))]


def pieces(sources: Sequence[Source]) -> list[Any]:
    """JSON values of the partitioning; results of an interrupted command are kept only where it is the same."""
    corpora = [[str(s.path), s.begin, s.end] for s in sources if isinstance(s, RowGroups)]
    return [*corpora, key_of([s for s in sources if isinstance(s, Partition)])]
