"""Parquet files, read and written with a checksum of every page, so that damage is an error and never another text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

FAULTS = (pa.ArrowException, OSError, ValueError, KeyError)
"""What reading a damaged file raises."""


def open_parquet(path: str | Path) -> Any:
    """A Parquet file whose columns are read piece by piece; pages that have a checksum are compared with it."""
    return pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20, page_checksum_verification=True)


def parquet_writer(path: str | Path, schema: pa.Schema) -> Any:
    """A writer of a Parquet file (zstd) with a checksum of every page."""
    return pq.ParquetWriter(path, schema, compression="zstd", write_page_checksum=True)
