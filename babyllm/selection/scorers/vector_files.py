"""Vectors from a file of another program: a matrix in .npy, or a column of lists in Parquet.

path -> VectorFile -> batches of rows, (b, d) float32; one batch at a time is in memory
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from babyllm.errors import UserError
from babyllm.store.parquet import FAULTS, open_parquet

BATCH_ROWS = 4096


class VectorFile:
    """The vectors of a file, row r of which belongs to record r.

    Attributes:
        path: path of the file.
        column: column of a Parquet file; None for .npy.
        n: number of vectors.
        width: numbers of each vector, d.
    """

    def __init__(self, path: str | Path, column: str | None = None) -> None:
        """Open a file and check its shape.

        Args:
            path: .npy file with a matrix of numbers (n, d), or Parquet file with a column of lists of d numbers.
            column: name of the column; None takes the only column of lists.

        Raises:
            UserError: the file cannot be read, or has no such vectors.
        """
        self.path, self.column = Path(path), column
        if not self.path.is_file():
            raise UserError(f"{path}: no such file; give vectors in .npy or Parquet")
        self._is_parquet = self.path.suffix != ".npy"
        if self._is_parquet:
            self.n, self.width = self._of_parquet()
        else:
            self.n, self.width = self._matrix().shape

    def batches(self, start: int = 0, size: int = BATCH_ROWS) -> Iterator[NDArray[np.float32]]:
        """The vectors from the row `start` on, (b, d) float32 with b at most `size`.

        Raises:
            UserError: a row of a Parquet file is not a list of d numbers, or the file is damaged.
        """
        if self._is_parquet:
            yield from self._parquet_batches(start, size)
            return
        matrix = self._matrix()
        for begin in range(start, self.n, size):
            yield np.array(matrix[begin : begin + size], dtype=np.float32)

    def _matrix(self) -> NDArray[Any]:
        """The matrix of a .npy file, which is read as it is needed."""
        try:
            found = np.load(self.path, mmap_mode="r")
        except (OSError, ValueError, EOFError) as error:
            raise UserError(f"{self.path}: cannot be read as .npy ({error})") from None
        if not isinstance(found, np.ndarray) or found.ndim != 2 or found.dtype.kind not in "fiu":
            raise UserError(
                f"{self.path}: holds no matrix of numbers with a row for each record; save one with np.save"
            )
        return found

    def _of_parquet(self) -> tuple[int, int]:
        """The number of rows, and the width of the first one."""
        with self._opened() as file:
            n, schema = file.metadata.num_rows, file.schema_arrow
        names = [field.name for field in schema if _is_vector(field.type)]
        if self.column is None and len(names) == 1:
            self.column = names[0]
        if self.column not in names:
            which = f"its columns of vectors are {', '.join(names)}" if names else "none of its columns holds vectors"
            raise UserError(f"{self.path}: has no vectors in the column {self.column}; {which}")
        first = next(self._lists(0, 1), None)
        if first is None or not (width := len(first[0].as_py() or ())):
            raise UserError(f"{self.path}: has no vector in the first row of {self.column}")
        return n, width

    def _parquet_batches(self, start: int, size: int) -> Iterator[NDArray[np.float32]]:
        row = start
        for lists in self._lists(start, size):
            lengths = lists.value_lengths().to_numpy(zero_copy_only=False)  # NaN for a row that is null
            flat = lists.flatten()
            wrong = np.flatnonzero(lengths != self.width)
            if len(wrong) or flat.null_count:
                which = row + int(wrong[0]) if len(wrong) else f"{row} or later"
                raise UserError(f"{self.path}: row {which} of {self.column} is not a list of {self.width} numbers")
            yield flat.to_numpy(zero_copy_only=False).astype(np.float32).reshape(-1, self.width)
            row += len(lists)

    def _lists(self, start: int, size: int) -> Iterator[Any]:
        """The rows of the column from `start` on, as Arrow arrays of at most `size`."""
        with self._opened() as file:
            ends = np.cumsum([file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)])
            first = int(np.searchsorted(ends, start, side="right"))
            left = start - (int(ends[first - 1]) if first else 0)
            groups = list(range(first, len(ends)))
            for batch in file.iter_batches(size, row_groups=groups, columns=[self.column], use_threads=False):
                lists = batch.column(0).slice(left)
                left = max(0, left - batch.num_rows)
                if len(lists):
                    yield lists

    @contextmanager
    def _opened(self) -> Iterator[Any]:
        try:
            with open_parquet(self.path) as file:
                yield file
        except FAULTS as error:
            raise UserError(f"{self.path}: cannot be read as .npy or Parquet ({error})") from None


def _is_vector(kind: Any) -> bool:
    """Whether an Arrow type is a list of numbers."""
    import pyarrow as pa

    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return is_list and bool(pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type))
