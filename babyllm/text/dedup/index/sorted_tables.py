"""Parquet files of an index: sorted by a key, with the bounds of each row group, so that few are read.

write_sorted -> row groups of one key range each -> between(low, high): those that overlap it
write_rows_at -> row groups of some documents    -> rows_at(rows): those that hold one of them
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from babyllm.errors import UserError
from babyllm.files import fsync
from babyllm.ragged import U64, Ragged, offsets_of
from babyllm.store.parquet import FAULTS, open_parquet, parquet_writer

ENTRIES = 1 << 16  # rows of a row group of keys
SHINGLES = 1 << 15  # about as many shingles are in a row group: a candidate costs at most so many
_AT_ONCE = 32  # row groups of documents that are read together
KEYS = pa.schema([("key", pa.uint64()), ("row", pa.uint32())])
EXACT = pa.schema([("key", pa.uint64()), ("second", pa.uint64()), ("row", pa.uint32())])
SETS = pa.schema([("shingles", pa.binary())])  # the sorted values of a set, each in six bytes, the lowest first
_SIX = 6


def write_table(path: Path, table: pa.Table, row_group: int) -> None:
    """Write a table in row groups of so many rows."""
    with parquet_writer(path, table.schema) as file:
        file.write_table(table, row_group_size=max(1, row_group))
    fsync(path)


def write_sorted(path: Path, schema: pa.Schema, columns: Sequence[NDArray[Any]]) -> None:
    """Write columns that are sorted by the first one."""
    table = pa.table([pa.array(column) for column in columns], names=schema.names).cast(schema)
    with parquet_writer(path, schema, is_hashes=True) as file:
        file.write_table(table, row_group_size=ENTRIES)
    fsync(path)


def between(path: Path, low: int, high: int) -> Iterator[list[NDArray[Any]]]:
    """The rows of a sorted file whose key is at least `low` and below `high`, by row group: its columns.

    Raises:
        UserError: the file is damaged.
    """
    try:
        with open_parquet(path) as file:
            for number in range(file.metadata.num_row_groups):
                bounds = file.metadata.row_group(number).column(0).statistics
                if not file.metadata.row_group(number).num_rows or bounds.max < low or bounds.min >= high:
                    continue
                found = [column.to_numpy() for column in file.read_row_group(number).columns]
                start = int(np.searchsorted(found[0], np.uint64(low)))
                stop = int(np.searchsorted(found[0], np.uint64(high))) if high < 1 << 64 else len(found[0])
                yield [column[start:stop] for column in found]
    except FAULTS as error:
        raise damaged(path, error) from error


def largest_key(path: Path) -> int:
    """The largest key of a sorted file; -1 if it has none.

    Raises:
        UserError: the file is damaged.
    """
    try:
        with open_parquet(path) as file:
            n = file.metadata.num_row_groups
            return int(file.metadata.row_group(n - 1).column(0).statistics.max) if file.metadata.num_rows else -1
    except FAULTS as error:
        raise damaged(path, error) from error


def rows_at(path: Path, rows: NDArray[np.int64], columns: Sequence[str]) -> Iterator[pa.Table]:
    """Rows of a file of documents, (n,) int64 and ascending, in tables; only row groups with one of them are read.

    Raises:
        UserError: the file is damaged.
    """
    try:
        with open_parquet(path) as file:
            sizes = [file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)]
            starts = offsets_of(np.array(sizes, np.int64))
            group_of = np.searchsorted(starts, rows, side="right") - 1
            groups = np.unique(group_of)
            for first in range(0, len(groups), _AT_ONCE):
                chosen = groups[first : first + _AT_ONCE]
                inside = slice(*np.searchsorted(group_of, [chosen[0], chosen[-1] + 1]))
                lengths = np.array([sizes[i] for i in chosen], np.int64)
                shift = starts[chosen] - offsets_of(lengths)[:-1]  # to a row's place among the groups read
                places = rows[inside] - shift[np.searchsorted(chosen, group_of[inside])]
                table = file.read_row_groups(chosen.tolist(), columns=list(columns), use_threads=False)
                yield table.take(pa.array(places))
    except FAULTS as error:
        raise damaged(path, error) from error


def write_sets(path: Path, sets: Ragged) -> None:
    """Write the sets of shingles of some documents, in row groups of about `SHINGLES` shingles."""
    with parquet_writer(path, SETS, is_hashes=True) as file:
        first, n = 0, len(sets.offsets) - 1
        while first < n:
            stop = max(first + 1, int(np.searchsorted(sets.offsets, sets.offsets[first] + SHINGLES, side="right")) - 1)
            offsets = (sets.offsets[first : stop + 1] - sets.offsets[first]) * _SIX
            values = np.asarray(sets.values[sets.offsets[first] : sets.offsets[stop]], "<u8").view(np.uint8)
            content = pa.py_buffer(np.ascontiguousarray(values.reshape(-1, 8)[:, :_SIX]))
            rows = pa.Array.from_buffers(
                pa.binary(), stop - first, [None, pa.py_buffer(offsets.astype(np.int32)), content]
            )
            file.write_table(pa.table([rows], schema=SETS))
            first = stop
    fsync(path)


def sets_in(table: pa.Table) -> Ragged:
    """The sets of shingles in rows of such a file."""
    column = table.column("shingles")
    content = np.frombuffer(b"".join(column.to_pylist()), np.uint8).reshape(-1, _SIX)
    values = np.zeros((len(content), 8), np.uint8)
    values[:, :_SIX] = content
    sets: U64 = values.reshape(-1).view("<u8").astype(np.uint64, copy=False)
    return Ragged(sets, offsets_of(pc.binary_length(column).to_numpy() // _SIX))


def damaged(path: Path, error: Exception) -> UserError:
    """The error of a file of an index that cannot be read."""
    return UserError(f"{path}: cannot be read ({error}); restore the index from a copy, or build it again")
