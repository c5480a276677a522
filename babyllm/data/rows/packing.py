"""Packing: conversations of different lengths into rows of one length, by best fit, from the longest to the shortest.

lengths -> count of each length -> rows by their free space -> members of each row

Conversations of one length are placed together, so the work grows with the number of different lengths rather than with
the number of conversations: ten million take seconds.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from babyllm.data.order.shuffle import shuffled
from babyllm.errors import UserError
from babyllm.ragged import Ragged, offsets_of


def pack(lengths: NDArray[Any], seq_len: int, seed: int) -> Ragged:
    """The conversations of each row: each comes exactly once, and no row holds more than `seq_len` inputs.

    Best fit decreasing (Johnson 1974): every conversation, the longest first, goes to the row with the least free space
    that it fits into.

    Args:
        lengths: inputs of each conversation, (N,) integers of at least 1.
        seq_len: inputs of a row.
        seed: seed of the choice between conversations of one length.

    Returns:
        The members of every row, as (N,) int64 indices into `lengths`.

    Raises:
        UserError: a conversation is longer than a row.
    """
    if len(lengths) and int(lengths.max()) > seq_len:
        raise UserError(
            f"data.seq_len={seq_len}: a conversation has {int(lengths.max())} tokens; choose a larger seq_len, "
            "or prepare the data for this one"
        )
    order = np.lexsort((shuffled(np.arange(len(lengths)), len(lengths), seed, 0), -lengths))
    rows = np.empty(len(lengths), np.int64)
    space = _Space(seq_len)
    for first, end in pairwise(_borders(lengths[order])):
        done = first
        for filled in space.take(int(lengths[order[first]]), end - first):
            rows[done : done + len(filled)] = filled
            done += len(filled)
    members = order[np.argsort(rows, kind="stable")]
    return Ragged(members, offsets_of(np.bincount(rows, minlength=space.n_rows)))


def _borders(lengths: NDArray[Any]) -> list[int]:
    """The start of each run of equal lengths, and the end of the last run."""
    if not len(lengths):
        return [0]
    return [0, *(np.flatnonzero(np.diff(lengths)) + 1).tolist(), len(lengths)]


class _Space:
    """Rows by their free space, in inputs."""

    def __init__(self, seq_len: int) -> None:
        self._seq_len, self.n_rows = seq_len, 0
        self._rows: list[list[NDArray[np.int64]]] = [[] for _ in range(seq_len + 1)]
        self._has_rows = np.zeros(seq_len + 1, dtype=bool)

    def take(self, length: int, count: int) -> Iterator[NDArray[np.int64]]:
        """Place `count` conversations of one length; yields the rows they go to, (some,) int64 at a time."""
        while count:
            free = length + int(self._has_rows[length:].argmax())
            if self._has_rows[free]:
                rows = np.concatenate(self._rows[free])
                self._rows[free], self._has_rows[free] = [], False
            else:
                # No open row is free enough: open new ones.
                free = self._seq_len
                rows = np.arange(self.n_rows, self.n_rows + -(-count // (free // length)))
                self.n_rows += len(rows)
            # A row that has taken one is the best fit for the next, until no other fits.
            each = free // length
            n_full, rest = divmod(min(count, len(rows) * each), each)
            self._put(free - each * length, rows[:n_full])
            self._put(free - rest * length, rows[n_full : n_full + 1])
            self._put(free, rows[n_full + 1 :])
            placed = np.repeat(rows[: n_full + 1], each)[: n_full * each + rest]
            count -= len(placed)
            yield placed

    def _put(self, free: int, rows: NDArray[np.int64]) -> None:
        if len(rows):
            self._rows[free].append(rows)
            self._has_rows[free] = True
