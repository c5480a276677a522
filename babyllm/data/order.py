"""The order of the data: a pure function of (seed, epoch), in no memory at all.

A Feistel network over the indices (Black and Rogaway 2002, "generalized Feistel cipher" with cycle walking) is a
permutation of any number of rows that is computed row by row, so 150 million windows need no table of 150 million
numbers on every rank.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

ROUNDS = 8


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
    mask = np.uint64((1 << half_bits) - 1)
    shift = np.uint64(half_bits)
    with np.errstate(over="ignore"):
        keys = [_mix(np.uint64(hash_ints(seed, epoch, i))) for i in range(ROUNDS)]
        out = rows.astype(np.uint64)
        outside = np.ones(len(out), dtype=bool)
        while outside.any():
            x = out[outside]
            left, right = x >> shift, x & mask
            for key in keys:
                left, right = right, left ^ (_mix(right ^ key) & mask)
            out[outside] = (left << shift) | right
            outside = out >= np.uint64(n)
    return out.astype(np.int64)


def hash_ints(*values: int) -> int:
    """A 64-bit hash of integers, the same on every machine."""
    state = np.uint64(0x9E3779B97F4A7C15)
    with np.errstate(over="ignore"):
        for value in values:
            state = _mix(state ^ np.uint64(value & 0xFFFFFFFFFFFFFFFF))
    return int(state)


def _mix(x: NDArray[np.uint64] | np.uint64) -> NDArray[np.uint64] | np.uint64:
    """The finaliser of splitmix64 (Steele et al. 2014)."""
    x = (x + np.uint64(0x9E3779B97F4A7C15)) & np.uint64(0xFFFFFFFFFFFFFFFF)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: NDArray[np.uint64] | np.uint64 = x ^ (x >> np.uint64(31))
    return mixed
