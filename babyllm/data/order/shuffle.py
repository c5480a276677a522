"""The order of the data: a pure function of (seed, epoch) that needs no table in memory.

A Feistel network over the indices (Black and Rogaway 2002, "generalized Feistel cipher" with cycle walking) permutes
any number of rows and is computed row by row. So 150 million windows need no table of 150 million numbers on every
rank.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from babyllm.data.rows.arrays import RowArrays
from babyllm.ragged import GOLDEN, mix

ROUNDS = 8
BLOCK_ROWS = 4096
BLOCKS_KEPT = 256  # the domains of a mixture alternate, and each needs its current block


class Rows(Protocol):
    """Rows that can be read by index, a fixed number per epoch."""

    def __len__(self) -> int:
        """Rows per epoch."""
        ...

    def rows(self, indices: NDArray[np.int64]) -> RowArrays:
        """The rows with these (n,) int64 indices, each in [0, len(self))."""
        ...

    def lengths(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """(n,) int64, the inputs of each row that are not padding, for (n,) indices."""
        ...


class Order(Protocol):
    """An endless sequence of rows, which can be read by number."""

    def rows(self, numbers: NDArray[np.int64]) -> RowArrays:
        """The rows of the run with these (n,) int64 numbers, counted from 0."""
        ...

    def identity(self, consumed: int) -> dict[str, Any]:
        """The settings, as JSON, that decide the first `consumed` rows together with data and seed."""
        ...

    def metrics(self, consumed: int) -> dict[str, float]:
        """Numbers by name about the position after `consumed` rows, to be plotted over the run."""
        ...


class Shuffled:
    """An endless sequence of the rows of `data`, each epoch in an order of its own that (seed, epoch) decides."""

    def __init__(self, data: Rows, seed: int) -> None:
        self._data, self._seed = data, seed

    def __len__(self) -> int:
        """Rows per epoch."""
        return len(self._data)

    def rows(self, numbers: NDArray[np.int64]) -> RowArrays:
        """The rows of the run with these (n,) int64 numbers, counted from 0."""
        return self._data.rows(self._indices(numbers))

    def lengths(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """(n,) int64, the inputs of each row that are not padding, for (n,) numbers."""
        return self._data.lengths(self._indices(numbers))

    def _indices(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        epochs, places = np.divmod(numbers, len(self._data))
        indices = np.empty_like(numbers)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            indices[here] = shuffled_in_turn(places[here], len(self._data), self._seed, int(epoch))
        return indices

    def identity(self, consumed: int) -> dict[str, Any]:
        """The settings, as JSON, that decide the first `consumed` rows together with data and seed."""
        return {"rows": len(self._data)}

    def metrics(self, consumed: int) -> dict[str, float]:
        """Epochs after `consumed` rows."""
        return {"epoch/all": consumed / len(self._data)}


def shuffled(rows: NDArray[np.int64], n: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """The image of each of `rows` under the permutation of range(n) that (seed, epoch) decides.

    Args:
        rows: row indices, (R,) int64, each in [0, n).
        n: rows of the epoch, at least 1.
        seed: seed of the data order.
        epoch: number of the epoch, from 0.

    Returns:
        (R,) int64 in [0, n); a bijection over the epoch.
    """
    half_bits = max(1, (max(n - 1, 1).bit_length() + 1) // 2)
    mask, shift = np.uint64((1 << half_bits) - 1), np.uint64(half_bits)
    out = rows.astype(np.uint64)
    outside = np.ones(len(out), dtype=bool)
    while outside.any():
        left, right = out[outside] >> shift, out[outside] & mask
        for key in _round_keys(seed, epoch):
            left, right = right, left ^ (mix((right ^ key) + GOLDEN) & mask)
        out[outside] = (left << shift) | right
        outside = out >= np.uint64(n)
    return out.astype(np.int64)


def shuffled_in_turn(rows: NDArray[np.int64], n: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """The result of `shuffled`, (rows,) int64, fast for rows read in order, a few at a time: blocks are cached."""
    out = np.empty_like(rows)
    blocks = rows // BLOCK_ROWS
    for block in np.unique(blocks):
        here = blocks == block
        out[here] = _block(int(block), n, seed, epoch)[rows[here] - block * BLOCK_ROWS]
    return out


@lru_cache(maxsize=BLOCKS_KEPT)
def _block(block: int, n: int, seed: int, epoch: int) -> NDArray[np.int64]:
    rows = np.arange(block * BLOCK_ROWS, min(n, (block + 1) * BLOCK_ROWS), dtype=np.int64)
    return shuffled(rows, n, seed, epoch)


@lru_cache(maxsize=BLOCKS_KEPT)
def _round_keys(seed: int, epoch: int) -> tuple[np.uint64, ...]:
    return tuple(mix(np.array([hash_ints(seed, epoch, i)], np.uint64) + GOLDEN)[0] for i in range(ROUNDS))


def hash_ints(*values: int) -> int:
    """A 64-bit hash of integers, the same on every machine."""
    state = np.array([GOLDEN])
    for value in values:
        state = mix((state ^ np.uint64(value & 0xFFFFFFFFFFFFFFFF)) + GOLDEN)
    return int(state[0])
