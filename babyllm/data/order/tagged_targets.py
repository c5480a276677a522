"""Rows that count their targets with a class, so that a loss over these alone is divided by their number."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from babyllm.data.order.shuffle import Order
from babyllm.data.rows.arrays import RowArrays
from babyllm.model.cross_entropy import IGNORE

TAGGED = "tagged"  # the unit


class TaggedTargets:
    """The rows of another order, unchanged, with the number of their targets that have a class as unit "tagged".

    Args:
        order: order of the rows.
        classes: (V,) int64, the class of each id; negative for none.
    """

    def __init__(self, order: Order, classes: NDArray[np.int64]) -> None:
        self._order, self._has_class = order, classes >= 0

    def rows(self, numbers: NDArray[np.int64]) -> RowArrays:
        """The rows of the run with these (n,) int64 numbers, counted from 0."""
        read = self._order.rows(numbers)
        targets = read["targets"]
        is_tagged = (targets != IGNORE) & self._has_class[targets.clip(0)]
        return RowArrays(read.arrays, read.lengths, read.units | {TAGGED: is_tagged.sum(1)})

    def identity(self, consumed: int) -> dict[str, Any]:
        """The settings, as JSON, that decide the first `consumed` rows: those of the order."""
        return self._order.identity(consumed)

    def metrics(self, consumed: int) -> dict[str, float]:
        """The numbers of the order."""
        return self._order.metrics(consumed)
