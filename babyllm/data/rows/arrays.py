"""What rows are made of: named arrays, how long each row is, and how many units of a loss it holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class RowArrays:
    """n rows of T columns.

    Attributes:
        arrays: by name, the rows first and the columns last: (n, T), or (n, 2, T) for pairs. "targets" must be there.
        lengths: (n,), or (n, 2) for pairs: inputs that are not padding; None where no row is padded.
        units: (n,) by name: how many of a unit beside tokens each row holds, such as "turn".
    """

    arrays: dict[str, NDArray[Any]]
    lengths: NDArray[np.int64] | None = None
    units: dict[str, NDArray[np.int64]] = field(default_factory=dict)

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self.arrays[name]

    def trimmed(self, multiple: int) -> dict[str, NDArray[Any]]:
        """The arrays without the columns after the longest row, rounded up to a multiple, and "lengths"."""
        if self.lengths is None:
            return self.arrays
        width = -(-int(self.lengths.max()) // multiple) * multiple
        columns = {name: np.ascontiguousarray(array[..., :width]) for name, array in self.arrays.items()}
        return columns | {"lengths": self.lengths}


def placed(n: int, parts: Sequence[tuple[NDArray[np.int64], RowArrays]]) -> RowArrays:
    """N rows put together from parts, each with the places of its rows; all parts are of one kind."""

    def together(arrays: Sequence[NDArray[Any]]) -> NDArray[Any]:
        out = np.empty((n, *arrays[0].shape[1:]), arrays[0].dtype)
        for (places, _), array in zip(parts, arrays, strict=True):
            out[places] = array
        return out

    rows = [part for _, part in parts]
    lengths = [row.lengths for row in rows if row.lengths is not None]
    return RowArrays(
        {name: together([row.arrays[name] for row in rows]) for name in rows[0].arrays},
        together(lengths) if lengths else None,
        {name: together([row.units[name] for row in rows]) for name in rows[0].units},
    )
