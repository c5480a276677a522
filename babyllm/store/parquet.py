"""Parquet files, read and written with a checksum of every page, so that damage is an error and never another text.

Arrow takes names of files for UTF-8, which those of a disk need not be: it is handed files that are open already.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

FAULTS = (pa.ArrowException, OSError, ValueError, KeyError)
"""What reading a damaged file raises."""


@contextmanager
def open_parquet(path: str | Path) -> Iterator[Any]:
    """A Parquet file whose columns are read piece by piece; pages that have a checksum are compared with it."""
    with open(path, "rb", buffering=0) as file:
        table = _opened(file)
        if any(_is_wide(field.type) for field in table.schema_arrow):
            # Arrow makes indices of other widths by a cast for which each text must be valid.
            columns = map(table.schema.column, range(len(table.schema)))
            table = _opened(file, [column.path for column in columns if column.physical_type == "BYTE_ARRAY"])
        yield table


def _is_wide(kind: Any) -> bool:
    """Whether a type holds a dictionary whose indices have another width than those that Parquet files have."""
    if pa.types.is_dictionary(kind):
        return bool(kind.index_type != pa.int32())
    return any(_is_wide(kind.field(i).type) for i in range(kind.num_fields))


def _opened(file: BinaryIO, dictionaries: list[str] | None = None) -> Any:
    return pq.ParquetFile(
        file,
        read_dictionary=dictionaries,
        pre_buffer=False,
        buffer_size=1 << 20,
        page_checksum_verification=True,
    )


@contextmanager
def parquet_writer(path: str | Path, schema: pa.Schema) -> Iterator[Any]:
    """A writer of a Parquet file (zstd) with a checksum of every page."""
    with (
        open(path, "wb") as file,
        pq.ParquetWriter(file, schema, compression="zstd", write_page_checksum=True) as table,
    ):
        yield table
