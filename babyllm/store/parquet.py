"""Parquet files with a checksum for every page, so that damage is an error and never a changed text.

Arrow requires file names in UTF-8, which a disk does not guarantee, so it is passed open files.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

FAULTS = (pa.ArrowException, OSError, ValueError, KeyError)
"""The exceptions that reading a damaged file raises."""


@contextmanager
def open_parquet(path: str | Path) -> Iterator[Any]:
    """An open `pyarrow.parquet.ParquetFile` that reads columns in small buffers and verifies the checksums of pages."""
    with open(path, "rb", buffering=0) as file:
        table = _opened(file)
        if any(_is_wide(field.type) for field in table.schema_arrow):
            # Arrow makes other index types by a cast that requires valid UTF-8; columns read as dictionaries need none.
            columns = map(table.schema.column, range(len(table.schema)))
            table = _opened(file, [column.path for column in columns if column.physical_type == "BYTE_ARRAY"])
        yield table


def _is_wide(kind: Any) -> bool:
    """Whether a type holds a dictionary whose indices are not int32, the type that Arrow reads from Parquet."""
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
def parquet_writer(path: str | Path, schema: pa.Schema, *, is_hashes: bool = False) -> Iterator[Any]:
    """An open `pyarrow.parquet.ParquetWriter` (zstd) that adds a checksum to every page.

    Args:
        path: path of the file.
        schema: schema of its tables.
        is_hashes: whether the values are hashes, which do not repeat and cannot be compressed.
    """
    with (
        open(path, "wb") as file,
        pq.ParquetWriter(
            file,
            schema,
            compression="none" if is_hashes else "zstd",
            write_page_checksum=True,
            use_dictionary=not is_hashes,
        ) as table,
    ):
        yield table
