"""Rows of different lengths in one flat array, and their hashes, so that numpy works on many documents at once.

Every hash is a fixed function of 64-bit integers modulo 2**64, so it does not depend on the machine, the process or the
batches into which a corpus is cut.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

U64 = NDArray[np.uint64]
GOLDEN = np.uint64(0x9E3779B97F4A7C15)
"""2**64 over the golden ratio: the step that SplitMix64 adds to its state before each `mix`."""

_MIX_1, _MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_SECOND = np.uint64(0xD6E8FEB86659FD93)


class Ragged(NamedTuple):
    """Rows of different lengths.

    Attributes:
        values: (values,) of any dtype, the rows one after another.
        offsets: (rows + 1,) int64, starting at 0: row i is `values[offsets[i]:offsets[i + 1]]`.
    """

    values: NDArray[Any]
    offsets: NDArray[np.int64]

    def lengths(self) -> NDArray[np.int64]:
        """(rows,) int64, the number of values in each row."""
        return np.diff(self.offsets)


def offsets_of(lengths: NDArray[Any]) -> NDArray[np.int64]:
    """(rows + 1,) int64 offsets of rows with these (rows,) lengths: each row's start, and the end of the last."""
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def positions(offsets: NDArray[np.int64]) -> NDArray[np.int64]:
    """(values,) int64, the index of each value within its row, for (rows + 1,) int64 offsets."""
    return np.arange(offsets[-1]) - np.repeat(offsets[:-1], np.diff(offsets))


def compress(rows: Ragged, keep: NDArray[np.bool_]) -> Ragged:
    """The rows without the values for which `keep`, (values,) bool, is False."""
    kept_before = offsets_of(keep)
    return Ragged(rows.values[keep], kept_before[rows.offsets])


def take(rows: Ragged, numbers: NDArray[Any]) -> Ragged:
    """The rows with these (n,) integer indices, in this order."""
    offsets = offsets_of(rows.offsets[numbers + 1] - rows.offsets[numbers])
    shift = np.repeat(rows.offsets[numbers] - offsets[:-1], np.diff(offsets))
    return Ragged(rows.values[np.arange(offsets[-1]) + shift], offsets)


def reduce_rows(operation: np.ufunc, rows: Ragged, empty: Any, out: NDArray[Any] | None = None) -> NDArray[Any]:
    """(rows,) results of `operation.reduce` over each row; `empty` for an empty row.

    Args:
        operation: binary ufunc such as `np.add`.
        rows: rows to reduce.
        empty: result of an empty row.
        out: (rows,) array to write the results to; None makes a new one.
    """
    starts, filled = rows.offsets[:-1], np.diff(rows.offsets) > 0
    if filled.all():
        return np.asarray(operation.reduceat(rows.values, starts, out=out)) if len(starts) else rows.values[:0]
    out = np.empty(len(starts), rows.values.dtype) if out is None else out
    out[:] = empty
    if filled.any():  # empty rows have no values, so the values of filled rows are adjacent
        out[filled] = operation.reduceat(rows.values, starts[filled])
    return out


def mix(x: U64) -> U64:
    """Scramble 64-bit values one to one, so that every bit depends on every other: the finaliser of SplitMix64.

    All orders and hashes use this mixer (Steele et al. 2014). Products wrap around at 64 bits.

    Args:
        x: uint64 values of any shape, changed in place.

    Returns:
        `x`.
    """
    scratch = x >> np.uint64(30)
    x ^= scratch
    x *= _MIX_1
    np.right_shift(x, np.uint64(27), out=scratch)
    x ^= scratch
    x *= _MIX_2
    np.right_shift(x, np.uint64(31), out=scratch)
    x ^= scratch
    return x


def hash_rows(rows: Ragged) -> tuple[U64, U64]:
    """Two (rows,) uint64 hashes of each row's values in order; together they distinguish rows like a 128-bit hash."""
    terms = positions(rows.offsets).view(np.uint64)
    terms *= GOLDEN
    terms += rows.values
    mix(terms)
    first = reduce_rows(np.add, Ragged(terms, rows.offsets), 0)
    terms ^= terms >> np.uint64(29)
    terms *= _SECOND
    terms ^= terms >> np.uint64(32)
    return first, reduce_rows(np.add, Ragged(terms, rows.offsets), 0)
