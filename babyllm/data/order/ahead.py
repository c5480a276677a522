"""Rows whose tokens are fetched before they are read: the same rows, only sooner there."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
from numpy.typing import NDArray

from babyllm.data.order.shuffle import Order
from babyllm.data.rows.arrays import RowArrays
from babyllm.store.remote_tokens import RemoteTokens
from babyllm.store.shards import TokenData

STEPS_AHEAD = 6


def fetched_ahead(order: Order, tokens: TokenData, global_batch: int) -> Order:
    """The same order; if its tokens are in an object store, those of the next steps are fetched while rows are read.

    Args:
        order: order of rows of the tokens.
        tokens: token data.
        global_batch: rows of a step of all ranks together.
    """
    return _Ahead(order, tokens, global_batch) if isinstance(tokens, RemoteTokens) else order


class _Ahead:
    """An order that asks for the rows of the next steps whenever rows are read.

    Args:
        order: order of the rows.
        tokens: what the rows are made of.
        global_batch: rows of a step of all ranks together, after which this rank's next rows begin.
    """

    def __init__(self, order: Order, tokens: RemoteTokens, global_batch: int) -> None:
        self._order, self._tokens, self._global_batch = order, tokens, global_batch
        self._asked: deque[tuple[int, int]] = deque(maxlen=1024)

    def rows(self, numbers: NDArray[np.int64]) -> RowArrays:
        """The rows of the run with these (n,) int64 numbers, counted from 0."""
        with self._tokens.asking():
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
