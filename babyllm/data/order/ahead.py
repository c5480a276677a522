"""Rows whose tokens are fetched before they are read: the same rows, only sooner there."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from babyllm.data.order.shuffle import Order
from babyllm.data.rows.arrays import RowArrays

STEPS_AHEAD = 6


class Ahead:
    """An order that asks for the rows of the next steps whenever rows are read.

    Args:
        order: order of the rows; a read of it inside `asking` only asks.
        asking: context in which reads of this thread return nothing useful and begin a transfer instead.
        global_batch: rows of a step of all ranks together, after which this rank's next rows begin.
    """

    def __init__(self, order: Order, asking: Callable[[], AbstractContextManager[None]], global_batch: int) -> None:
        self._order, self._asking, self._global_batch = order, asking, global_batch
        self._asked: deque[tuple[int, int]] = deque(maxlen=4096)

    def rows(self, numbers: NDArray[np.int64]) -> RowArrays:
        """The rows of the run with these (n,) int64 numbers, counted from 0."""
        with self._asking():
            for step in range(STEPS_AHEAD + 1):
                later = numbers + step * self._global_batch
                key = int(later[0]), len(later)
                if key not in self._asked:
                    self._asked.append(key)
                    self._order.rows(later)
        return self._order.rows(numbers)

    def identity(self, consumed: int) -> dict[str, Any]:
        """The settings, as JSON, that decide the first `consumed` rows together with data and seed."""
        return self._order.identity(consumed)

    def metrics(self, consumed: int) -> dict[str, float]:
        """Numbers by name about the position after `consumed` rows, to be plotted over the run."""
        return self._order.metrics(consumed)
