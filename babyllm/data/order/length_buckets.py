"""Length bucketing: batches of rows of similar length, which need little padding, by reordering within blocks.

row r -> its global batch -> its block of several global batches -> the block's rows sorted by length, cut into batches,
the batches shuffled -> the row that takes the place of r

The order is a pure function of (seed, r): it depends neither on the number of ranks nor on where a run was resumed.
Every row of a block comes exactly once. No row crosses the border of a phase or an epoch.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from babyllm.data.order.shuffle import Order, Shuffled, hash_ints, shuffled
from babyllm.data.rows.arrays import RowArrays

BLOCK_BATCHES = 64
ENDLESS = 1 << 62


class MeasuredOrder(Order, Protocol):
    """An endless sequence of rows whose lengths are known without reading them."""

    def lengths(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """(n,) int64, the inputs of each row that are not padding, for (n,) numbers."""
        ...


class _Block(NamedTuple):
    """The global batches [first, end) of a block, counted from the start of the run."""

    first: int
    end: int


class ByLength:
    """The rows of another order, in global batches of similar length.

    Args:
        order: order of the rows before the bucketing.
        global_batch: rows per step.
        seed: seed of the order of the batches within a block.
        stages: first row of each phase of a mixture. A block ends there and at the end of each epoch of `Shuffled`. A
            batch with rows from both sides is not reordered.
        batches: number of global batches in a block. A larger block needs less padding, but the rows of a batch come
            from a longer stretch of the run.
    """

    def __init__(
        self,
        order: MeasuredOrder,
        global_batch: int,
        seed: int,
        stages: Sequence[int] = (),
        batches: int = BLOCK_BATCHES,
    ) -> None:
        self._order, self._global_batch, self._batches = order, global_batch, batches
        self._seed = hash_ints(seed, *b"by length")
        self._stages = sorted(stages)
        self._epoch = len(order) if isinstance(order, Shuffled) else 0
        self._sorted = lru_cache(maxsize=2)(self._sort)  # the current block, and the next for prefetching

    def rows(self, numbers: NDArray[np.int64]) -> RowArrays:
        """The rows of the run with these (n,) int64 numbers, counted from 0."""
        return self._order.rows(self._replaced(numbers))

    def lengths(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """(n,) int64, the inputs of each row that are not padding, for (n,) numbers."""
        return self._order.lengths(self._replaced(numbers))

    def identity(self, consumed: int) -> dict[str, Any]:
        """The settings, as JSON, that decide the first `consumed` rows, with the block size and the block's end."""
        made_of = self._order.identity(consumed) | {"global_batch": self._global_batch, "by_length": self._batches}
        block = self._block(consumed // self._global_batch)
        begun = block.first * self._global_batch < consumed
        return made_of | {"block_ends": block.end * self._global_batch if begun else consumed}

    def metrics(self, consumed: int) -> dict[str, float]:
        """Numbers by name about the position after `consumed` rows, to be plotted over the run."""
        return self._order.metrics(consumed)

    def _replaced(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """(n,) int64, the row that takes the place of each of (n,) numbers."""
        out = np.empty_like(numbers)
        batches = numbers // self._global_batch
        for batch in np.unique(batches).tolist():
            here, block = batches == batch, self._block(batch)
            out[here] = self._sorted(block)[batch - block.first][numbers[here] % self._global_batch]
        return out

    def _block(self, batch: int) -> _Block:
        """The block that a global batch belongs to."""
        first, end = self._stretch(batch)
        first += (batch - first) // self._batches * self._batches
        return _Block(first, min(end, first + self._batches))

    def _stretch(self, batch: int) -> tuple[int, int]:
        """The batches [first, end) around this one up to the next borders; a batch that a border cuts is alone."""
        first_row = batch * self._global_batch
        last_row = first_row + self._global_batch - 1
        below, above = self._borders_around(first_row)
        if above <= last_row:
            return batch, batch + 1
        return -(-below // self._global_batch), above // self._global_batch

    def _borders_around(self, row: int) -> tuple[int, int]:
        """The last border at or before a row, and the first one after it."""
        at = bisect_left(self._stages, row + 1)
        below = self._stages[at - 1] if at else 0
        above = self._stages[at] if at < len(self._stages) else ENDLESS
        if self._epoch:
            epoch = row // self._epoch
            below, above = max(below, epoch * self._epoch), min(above, (epoch + 1) * self._epoch)
        return below, above

    def _sort(self, block: _Block) -> NDArray[np.int64]:
        """(batches, global_batch) int64, the row numbers of a block in their new order."""
        numbers = np.arange(block.first * self._global_batch, block.end * self._global_batch)
        by_length = numbers[np.argsort(self._order.lengths(numbers), kind="stable")]
        n = block.end - block.first
        turns = shuffled(np.arange(n), n, self._seed, block.first)
        return by_length.reshape(n, self._global_batch)[turns]
