"""Parquet files, a few rows at a time: tables of others by the names of their columns, and corpora made here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pyarrow as pa

from babyllm.text.corpus import COLUMNS
from babyllm.text.documents import Document
from babyllm.text.parquet import FAULTS, open_parquet
from babyllm.text.readers.fields import Fields
from babyllm.text.readers.records import BadRecord, Maker, ReadConfig, Rejected, Source, T, rejected

BATCH_ROWS = 2048
BATCH_BYTES = 8 << 20


def read_parquet(source: Source, config: ReadConfig, make: Maker[T]) -> Iterator[T | Rejected]:
    """What is made of some row groups; what follows damage in a row group is lost up to the next one."""
    return _made(source, make.columns, make.document)


def read_corpus(source: Source, config: ReadConfig, fields: Fields) -> Iterator[Document | Rejected]:
    """The documents of some row groups of a corpus, with the ids they have."""
    keeps_domain = config.domain == "auto"

    def document(record: Mapping[str, Any], place: str) -> Document:
        domain = record["domain"] if keeps_domain else ""
        return fields.plain(record["text"], record["id"], domain, record.get("url") or "")

    return _made(source, lambda names: [name for name in COLUMNS if name in names], document)


def _made(
    source: Source, columns_of: Callable[[list[str]], list[str]], make: Callable[[Any, str], T]
) -> Iterator[T | Rejected]:
    try:
        file = open_parquet(source.path)
    except FAULTS as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        yield rejected(source.name, "not a Parquet file, or a damaged one", error)
        return
    with file:
        names = file.schema_arrow.names
        try:
            columns = columns_of(names)
        except BadRecord as error:
            if source.start == 0:  # once per file
                yield rejected(source.name, error, ", ".join(names))
            return
        for place, record in _rows(file, columns, source):
            if isinstance(record, Rejected):
                yield record
                continue
            try:
                yield make(record, place)
            except BadRecord as error:
                yield rejected(place, error, record)


def _rows(file: Any, columns: list[str], source: Source) -> Iterator[tuple[str, Any]]:
    """(place, fields of the row), or a `Rejected` for what is damaged."""
    groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
    end = len(groups) if source.end is None else source.end
    row = sum(group.num_rows for group in groups[: source.start])
    for index in range(source.start, end):
        group, first = groups[index], row
        per_row = max(1, group.total_byte_size // max(1, group.num_rows))
        size = max(1, min(BATCH_ROWS, BATCH_BYTES // per_row))
        try:
            for batch in file.iter_batches(size, row_groups=[index], columns=columns, use_threads=False):
                found = batch.schema.names
                values = [_values(column) for column in batch.columns]
                for cells in zip(*values, strict=True):
                    yield f"{source.name}:{row}", dict(zip(found, cells, strict=True))
                    row += 1
        except FAULTS as error:
            place = f"{source.name}:{row}"
            yield place, rejected(place, "damaged: the rest of this row group is lost", error)
        row = first + group.num_rows


def _values(column: Any) -> list[Any]:
    try:
        values: list[Any] = column.to_pylist()
    except UnicodeDecodeError:  # only the rows that are invalid are to be lost
        values = column.cast(pa.large_binary() if pa.types.is_large_string(column.type) else pa.binary()).to_pylist()
    return values
