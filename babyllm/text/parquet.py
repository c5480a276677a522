"""Parquet files, read and written with a checksum of every page, so that damage is an error and never another text.

Arrow takes names of files for UTF-8, which those of a disk need not be: it is handed files that are open already.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

FAULTS = (pa.ArrowException, OSError, ValueError, KeyError)
"""What reading a damaged file raises."""


@contextmanager
def open_parquet(path: str | Path) -> Iterator[Any]:
    """A Parquet file whose columns are read piece by piece; pages that have a checksum are compared with it."""
    with (
        open(path, "rb", buffering=0) as file,
        pq.ParquetFile(file, pre_buffer=False, buffer_size=1 << 20, page_checksum_verification=True) as table,
    ):
        yield table


@contextmanager
def parquet_writer(path: str | Path, schema: pa.Schema) -> Iterator[Any]:
    """A writer of a Parquet file (zstd) with a checksum of every page."""
    with (
        open(path, "wb") as file,
        pq.ParquetWriter(file, schema, compression="zstd", write_page_checksum=True) as table,
    ):
        yield table
