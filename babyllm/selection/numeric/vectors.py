"""Vectors of records as an array or a memory map, read a block at a time."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from babyllm.errors import UserError

F32: TypeAlias = NDArray[np.float32]
F64: TypeAlias = NDArray[np.float64]
Rows: TypeAlias = NDArray[np.int64]
Metric = Literal["euclidean", "cosine"]
BLOCK_VALUES = 1 << 18  # numbers of a block: 1 MiB as float32
_LONGEST = 1e18  # its square, times 4, is a float32


class Vectors:
    """Rows of an array as float32, checked when they are read.

    With the metric cosine, each vector is divided by its length, in float64, and rounded to float32. The squared
    Euclidean distance of two such vectors is twice one minus their cosine, so both metrics share all that follows.

    Args:
        values: (all, d) float32 or float16 array, which may be a memory map.
        among: (n,) integer indices, different and ascending, of the rows that count; None for all of them.
        metric: euclidean or cosine.

    Raises:
        UserError: the array or `among` has another shape, or indices are not ascending.
    """

    def __init__(self, values: NDArray[Any], among: NDArray[Any] | None = None, metric: Metric = "euclidean") -> None:
        if values.ndim != 2 or values.dtype not in (np.float32, np.float16) or not values.shape[1]:
            raise UserError(f"vectors of shape {values.shape} and type {values.dtype}: need (n, d) float32 or float16")
        self.among = None if among is None else np.asarray(among, np.int64)
        if self.among is not None:
            check_rows(self.among, len(values), "among")
            if (np.diff(self.among) <= 0).any():
                raise UserError("among: row numbers must be ascending and different")
        self._values, self._is_cosine = values, metric == "cosine"

    def __len__(self) -> int:
        return len(self._values) if self.among is None else len(self.among)

    @property
    def width(self) -> int:
        """The number d of values in a vector."""
        return int(self._values.shape[1])

    def take(self, places: Rows | slice) -> F32:
        """(m, d) float32, the vectors at these places, counted among those that count.

        Raises:
            UserError: a vector is not finite, too long or, for the cosine, zero.
        """
        where = places if self.among is None else self.among[places]
        rows = np.ascontiguousarray(self._values[where], np.float32)
        largest = np.abs(rows).max(axis=1, initial=0)
        if not (largest * self.width**0.5 < _LONGEST).all():
            self._refuse(places, ~(largest * self.width**0.5 < _LONGEST), "is not finite or longer than 1e18")
        if not self._is_cosine:
            return rows
        if not largest.all():
            self._refuse(places, largest == 0, "is zero, so that it has no cosine")
        wide = rows.astype(np.float64)
        wide /= np.sqrt((wide * wide).sum(axis=1, keepdims=True))
        return wide.astype(np.float32)

    def blocks(self) -> Iterator[tuple[slice, F32]]:
        """All vectors in order: the places of a block, and the block, (m, d) float32.

        Raises:
            UserError: a vector is not finite, too long or, for the cosine, zero.
        """
        step = max(1, BLOCK_VALUES // self.width)
        for first in range(0, len(self), step):
            places = slice(first, min(len(self), first + step))
            yield places, self.take(places)

    @cached_property
    def mean(self) -> F32:
        """(d,) float32, the mean of all vectors, which are read for it.

        Raises:
            UserError: a vector is not finite, too long or, for the cosine, zero.
        """
        total = np.zeros(self.width)
        for _, block in self.blocks():
            total += block.sum(axis=0, dtype=np.float64)
        return (total / max(1, len(self))).astype(np.float32)

    def rows(self, places: Rows) -> Rows:
        """(m,) int64, the rows of the array at these (m,) places."""
        return places if self.among is None else self.among[places]

    def places(self, rows: NDArray[Any], name: str) -> Rows:
        """(m,) int64, the places of (m,) rows of the array, each of which must count.

        Raises:
            UserError: a row does not count; the message begins with `name`.
        """
        rows = np.asarray(rows, np.int64)
        check_rows(rows, len(self._values), name)
        if self.among is None:
            return rows
        places = np.searchsorted(self.among, rows)
        if missing := rows[self.among[np.minimum(places, len(self.among) - 1)] != rows][:1].tolist():
            raise UserError(f"{name}: row {missing[0]} is not among those that may be chosen")
        return places

    def _refuse(self, places: Rows | slice, bad: NDArray[np.bool_], why: str) -> None:
        numbers = np.arange(len(self))[places] if isinstance(places, slice) else places
        row = int(self.rows(numbers[bad][:1])[0])
        raise UserError(f"vector {row} {why}: leave it out or correct it")


def check_rows(rows: Rows, n: int, name: str) -> None:
    """Check that row numbers are those of an array of `n` rows.

    Raises:
        UserError: one is not, or the numbers are not in one dimension; the message begins with `name`.
    """
    if rows.ndim != 1:
        raise UserError(f"{name}: needs row numbers in one dimension, not an array of shape {rows.shape}")
    if wrong := rows[(rows < 0) | (rows >= n)][:1].tolist():
        raise UserError(f"{name}: row {wrong[0]} is not one of the {n:,} rows")
