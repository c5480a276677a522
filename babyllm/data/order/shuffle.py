"""The order of the data: a pure function of (seed, epoch), in no memory at all.

A Feistel network over the indices (Black and Rogaway 2002, "generalized Feistel cipher" with cycle walking) is a
permutation of any number of rows that is computed row by row, so 150 million windows need no table of 150 million
numbers on every rank.
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
BLOCKS_KEPT = 256  # domains of a mixture take turns, and each needs the block it is in


class Rows(Protocol):
    """Anything with a fixed number of rows per epoch."""

    def __len__(self) -> int:
        """Rows per epoch."""
        ...

    def rows(self, indices: NDArray[np.int64]) -> RowArrays:
        """These rows."""
        ...

    def lengths(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """(len(indices),) inputs of each row that are not padding."""
        ...


class Order(Protocol):
    """Rows without end, each at its place."""

    def rows(self, numbers: NDArray[np.int64]) -> RowArrays:
        """The rows that come as number 0, 1, ..."""
        ...

    def identity(self, consumed: int) -> dict[str, Any]:
        """What decides the first `consumed` rows, besides data and seed."""
        ...

    def metrics(self, consumed: int) -> dict[str, float]:
        """Numbers about the position behind `consumed` rows that are worth a curve."""
        ...


class Shuffled:
    """Rows without end: those of `data`, each epoch in an order of its own that belongs to (seed, epoch)."""

    def __init__(self, data: Rows, seed: int) -> None:
        self._data, self._seed = data, seed

    def __len__(self) -> int:
        """Rows per epoch."""
        return len(self._data)

    def rows(self, numbers: NDArray[np.int64]) -> RowArrays:
        """The rows that come as number 0, 1, ..."""
        return self._data.rows(self._indices(numbers))

    def lengths(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """(len(numbers),) inputs of these rows that are not padding."""
        return self._data.lengths(self._indices(numbers))

    def _indices(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        epochs, places = np.divmod(numbers, len(self._data))
        indices = np.empty_like(numbers)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            indices[here] = shuffled_in_turn(places[here], len(self._data), self._seed, int(epoch))
        return indices

    def identity(self, consumed: int) -> dict[str, Any]:
        """What decides the first `consumed` rows, besides data and seed."""
        return {"rows": len(self._data)}

    def metrics(self, consumed: int) -> dict[str, float]:
        """How often the data has been gone through behind `consumed` rows."""
        return {"epoch/all": consumed / len(self._data)}


def shuffled(rows: NDArray[np.int64], n: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Where each of `rows` goes in the permutation of range(n) that belongs to (seed, epoch).

    Args:
        rows: (R,) int64, each in [0, n).
        n: rows of the epoch, at least 1.
        seed: of the data order.
        epoch: 0, 1, ...

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
    """What `shuffled` gives, fast for rows that are asked for in order and a few at a time: whole blocks are kept."""
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
