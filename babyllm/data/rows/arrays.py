"""The contents of rows: named arrays, the length of each row, and the number of loss units in it."""

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
        arrays: arrays by name, (n, T), or (n, 2, T) for pairs, int64, or float32 for "weights". "targets" is required.
            An array of another width, such as (n, 1) for one number in each row, has no columns of tokens.
        lengths: inputs that are not padding, (n,) int64, or (n, 2) for pairs; None where no row is padded.
        units: number in each row of every unit other than tokens, such as "turn"; (n,) int64 by name.
    """

    arrays: dict[str, NDArray[Any]]
    lengths: NDArray[np.int64] | None = None
    units: dict[str, NDArray[np.int64]] = field(default_factory=dict)

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self.arrays[name]

    def trimmed(self, multiple: int) -> dict[str, NDArray[Any]]:
        """The arrays (n, width) cut to the longest row, rounded up to a multiple, and "lengths" (n,) int64.

        Arrays of another width than that of the targets are unchanged. If no row is padded, all arrays are, and there
        are no "lengths".
        """
        if self.lengths is None:
            return self.arrays
        whole, width = self["targets"].shape[-1], -(-int(self.lengths.max()) // multiple) * multiple
        columns = {
            name: np.ascontiguousarray(array[..., :width]) if array.shape[-1] == whole else array
            for name, array in self.arrays.items()
        }
        return columns | {"lengths": self.lengths}


def placed(n: int, parts: Sequence[tuple[NDArray[np.int64], RowArrays]]) -> RowArrays:
    """The `n` rows of all parts; a part is its rows and their (m,) int64 indices. All parts have the same arrays."""

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
