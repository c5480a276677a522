"""The ids of rows, a chunk of rows at a time, so that any amount of data is measured in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from babyllm.data.order.shuffle import Rows
from babyllm.data.rows.arrays import RowArrays
from babyllm.progress import ProgressLine
from babyllm.ragged import Ragged, offsets_of

CHUNK_ROWS = 1024


class Chunk(NamedTuple):
    """Some adjacent rows.

    Attributes:
        first: number of the first of them.
        ids: their inputs without padding, as ragged int64 rows.
        arrays: all their arrays.
    """

    first: int
    ids: Ragged
    arrays: RowArrays


def chunks(data: Rows, title: str | None = None, chunk_rows: int = CHUNK_ROWS) -> Iterator[Chunk]:
    """All rows in their own order.

    Args:
        data: the rows.
        title: unit named on a progress line; None shows none.
        chunk_rows: number of rows that are in memory together.
    """
    line = ProgressLine(title, len(data)) if title and len(data) > chunk_rows else None
    for first in range(0, len(data), chunk_rows):
        numbers = np.arange(first, min(first + chunk_rows, len(data)))
        arrays, lengths = data.rows(numbers), data.lengths(numbers)
        tokens = arrays["tokens"]
        is_input = np.arange(tokens.shape[1]) < lengths[:, None]
        yield Chunk(first, Ragged(tokens[is_input], offsets_of(lengths)), arrays)
        if line:
            line.show(int(numbers[-1]) + 1)
    if line:
        line.end()
