"""Tables of columns, read a few rows at a time: Parquet and Arrow files of other programs, and corpora of babyllm."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pyarrow as pa

from babyllm.documents import Document
from babyllm.store.corpus import COLUMNS
from babyllm.store.parquet import FAULTS, open_parquet
from babyllm.text.readers.formats.cells import INVALID, values
from babyllm.text.readers.formats.document_fields import Fields
from babyllm.text.readers.records import BadRecord, Maker, ReadConfig, Rejected, Source, T, rejected

BATCH_ROWS = 2048
BATCH_BYTES = 8 << 20
LOST_ROWS = "damaged: the rest of this row group is lost"


def read_parquet(source: Source, config: ReadConfig, make: Maker[T]) -> Iterator[T | Rejected]:
    """The results for some row groups; damage costs the rest of its row group."""
    yield from _made(source, config, make.columns, make.document)


def read_corpus(source: Source, config: ReadConfig, fields: Fields) -> Iterator[Document | Rejected]:
    """The documents of some row groups of a corpus, with their stored ids."""
    keeps_domain = config.domain == "auto"

    def document(record: Mapping[str, Any], place: str) -> Document:
        domain = record["domain"] if keeps_domain else ""
        return fields.plain(record["text"], record["id"], domain, record.get("url") or "")

    yield from _made(source, config, lambda names: [name for name in COLUMNS if name in names], document)


def read_arrow(source: Source, config: ReadConfig, make: Maker[T]) -> Iterator[T | Rejected]:
    """The results for an Arrow file or stream, as `datasets` and Feather write them; what follows damage is lost."""
    row = 0
    try:
        with source.path.open("rb", buffering=0) as file:
            is_file = file.read(6) == b"ARROW1"
            file.seek(0)
            reader = pa.ipc.open_file(file) if is_file else pa.ipc.open_stream(file)
            columns = make.columns(reader.schema.names)
            batches = map(reader.get_batch, range(reader.num_record_batches)) if is_file else reader
            for batch in batches:
                yield from _records(batch, columns, source.name, row, config.errors, make.document)
                row += batch.num_rows
    except BadRecord as error:
        yield rejected(source.name, error, ", ".join(reader.schema.names))
    except FAULTS as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        yield rejected(f"{source.name}:{row}", "not an Arrow file, or a damaged one: what follows is lost", error)


def _made(
    source: Source, config: ReadConfig, columns_of: Callable[[list[str]], list[str]], make: Callable[[Any, str], T]
) -> Iterator[T | Rejected]:
    try:
        with open_parquet(source.path) as file:
            names = file.schema_arrow.names
            try:
                columns = columns_of(names)
            except BadRecord as error:
                if source.start == 0:  # once per file
                    yield rejected(source.name, error, ", ".join(names))
                return
            yield from _rows(file, columns, source, config, make)
    except FAULTS as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        yield rejected(source.name, "not a Parquet file, or a damaged one", error)


def _rows(
    file: Any, columns: list[str], source: Source, config: ReadConfig, make: Callable[[Any, str], T]
) -> Iterator[T | Rejected]:
    groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
    end = len(groups) if source.end is None else source.end
    row = sum(group.num_rows for group in groups[: source.start])
    for index in range(source.start, end):
        group, first = groups[index], row
        per_row = max(1, group.total_byte_size // max(1, group.num_rows))
        size = max(1, min(BATCH_ROWS, BATCH_BYTES // per_row))
        try:
            for batch in file.iter_batches(size, row_groups=[index], columns=columns, use_threads=False):
                yield from _records(batch, columns, source.name, row, config.errors, make)
                row += batch.num_rows
        except FAULTS as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            yield rejected(f"{source.name}:{row}", LOST_ROWS, error)
        row = first + group.num_rows


def _records(
    batch: Any, names: list[str], name: str, row: int, errors: str, make: Callable[[Any, str], T]
) -> Iterator[T | Rejected]:
    """The results for the rows of a batch, which begins at index `row` of the file `name`."""
    wanted = [i for i, name in enumerate(batch.schema.names) if name in names]
    fields = [batch.schema.names[i] for i in wanted]
    columns = [values(batch.column(i), errors) for i in wanted]
    for number, cells in enumerate(zip(*columns, strict=True), row):
        record = dict(zip(fields, cells, strict=True))
        try:
            if INVALID in cells:
                raise BadRecord("not valid UTF-8 (see --read.errors)")
            yield make(record, f"{name}:{number}")
        except BadRecord as error:
            yield rejected(f"{name}:{number}", error, {k: v for k, v in record.items() if v is not INVALID})
