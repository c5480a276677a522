"""Rows with the log-probabilities of a reference model, which are computed once and kept on disk.

reference.json (the commit mark), reference.train.f32, reference.val.f32 -> WithReference -> rows with "reference"
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from babyllm.data.order.shuffle import Rows
from babyllm.data.rows.arrays import RowArrays
from babyllm.store.shards import Split

MARK = "reference.json"


def reference_file(directory: Path, split: Split) -> Path:
    """The file with the log-probabilities of the answers of a split: (n, 2) or (n, 1) float32, in nats."""
    return directory / f"reference.{split}.f32"


class WithReference:
    """The rows of pairs or answers, with "reference", (n, 2) or (n, 1) float32.

    Args:
        rows: rows with "numbers".
        table: (N, 2) or (N, 1) float32 log-probabilities in nats, by number.
    """

    def __init__(self, rows: Rows, table: NDArray[np.float32]) -> None:
        self._rows, self._table = rows, table

    def __len__(self) -> int:
        """Rows per epoch."""
        return len(self._rows)

    def lengths(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """(n,) int64, the inputs of each row that are not padding, for (n,) indices."""
        return self._rows.lengths(indices)

    def rows(self, indices: NDArray[np.int64]) -> RowArrays:
        """The rows with these (n,) int64 indices."""
        found = self._rows.rows(indices)
        return replace(found, arrays=found.arrays | {"reference": self._table[found["numbers"][:, 0]]})
