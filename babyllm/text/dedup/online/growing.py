"""An array to which values are appended."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


class Growing:
    """Rows appended to one array, whose room grows by half whenever it is used up.

    Room that no row has reached takes no memory.

    Args:
        shape: shape of a row; () for single values.
        dtype: type of the values.
    """

    def __init__(self, shape: tuple[int, ...], dtype: Any) -> None:
        self._room: NDArray[Any] = np.empty((1024, *shape), dtype)
        self._n = 0

    def __len__(self) -> int:
        return self._n

    @property
    def values(self) -> NDArray[Any]:
        """(n, ...) view of the rows; appending makes a new one."""
        return self._room[: self._n]

    def append(self, rows: NDArray[Any]) -> None:
        """Append (k, ...) rows."""
        n = self._n + len(rows)
        if n > len(self._room):
            room = np.empty((max(n, len(self._room) * 3 // 2), *self._room.shape[1:]), self._room.dtype)
            room[: self._n] = self.values
            self._room = room
        self._room[self._n : n] = rows
        self._n = n
