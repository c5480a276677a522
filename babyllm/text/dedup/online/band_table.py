"""The kept records by the keys of their bands, in 8 bytes a slot and 4 bytes an entry.

A slot of the hash table (open addressing, linear probing) holds a key of 32 bits and the number of the newest record
that has it. Each record has, for each of its keys, the number of the record before it with the same key; so the records
of a key form a chain from the newest to the oldest. All tables share the slots: keys depend on their table, and the few
keys that agree by chance only add candidates, which are compared anyway.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from babyllm.ragged import U64
from babyllm.text.dedup.online.growing import Growing

CHAIN = 64  # most records of a key that are candidates: the newest
NOBODY = np.uint32(0xFFFFFFFF)
_FULLEST = 0.6  # share of the slots in use at which there are twice as many
_KEY = np.uint64(32)
_KEYS_AT_ONCE = 1 << 20
_NUMBER = np.uint64(0xFFFFFFFF)  # of the record, plus one; an empty slot is 0


class BandTable:
    """Finds the numbers of records that share a key; numbers count up from 0.

    Args:
        n_tables: number of keys of a record.
    """

    def __init__(self, n_tables: int) -> None:
        self._bits = 12
        self._slots: U64 = np.zeros(1 << self._bits, np.uint64)
        self._n_used = 0
        self._before = Growing((n_tables,), np.uint32)

    def candidates(self, keys: NDArray[np.uint32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The records that share keys with rows of keys.

        Args:
            keys: (rows, tables) uint32.

        Returns:
            (found,) int64 row and (found,) int64 number, once for each key that they share.
        """
        newest = self._slots[self._positions(keys.reshape(-1))] & _NUMBER
        entry = np.flatnonzero(newest)
        number = (newest[entry] - np.uint64(1)).astype(np.int64)
        rows, numbers = [entry // keys.shape[1]], [number]
        before, table = self._before.values, entry % keys.shape[1]
        for _ in range(CHAIN - 1):
            if not len(number):
                break
            older = before[number, table]
            exists = older != NOBODY
            number, table = older[exists].astype(np.int64), table[exists]
            rows.append(rows[-1][exists])
            numbers.append(number)
        return np.concatenate(rows), np.concatenate(numbers)

    def append(self, keys: NDArray[np.uint32]) -> None:
        """Store the (records, tables) uint32 keys of the next records."""
        if not len(keys):
            return
        while self._n_used + keys.size > _FULLEST * len(self._slots):
            self._grow()
        n_before, (n, n_tables) = len(self._before), keys.shape
        flat = keys.reshape(-1)
        order = np.argsort(flat, kind="stable")
        ordered = flat[order]
        number = (order // n_tables + n_before).astype(np.uint64)
        is_first = np.ones(len(flat), bool)
        is_first[1:] = ordered[1:] != ordered[:-1]
        first = np.flatnonzero(is_first)
        last = np.append(first[1:], len(flat)) - 1
        older = np.empty(len(flat), np.uint32)
        older[1:] = number[:-1]
        found = self._put((ordered[last].astype(np.uint64) << _KEY) | (number[last] + np.uint64(1)))
        older[first] = (found - np.uint64(1)) & _NUMBER  # an empty slot becomes NOBODY
        before = np.empty(len(flat), np.uint32)
        before[order] = older
        self._before.append(before.reshape(n, n_tables))

    def _positions(self, keys: NDArray[np.uint32]) -> NDArray[np.int64]:
        """(keys,) int64 slot of each of (keys,) keys, or the empty slot at which its search ends."""
        position = (keys >> np.uint32(32 - self._bits)).astype(np.int64)
        pending, mask = np.arange(len(keys)), len(self._slots) - 1
        while len(pending):
            slot = self._slots[position[pending]]
            pending = pending[(slot != 0) & ((slot >> _KEY) != keys[pending])]
            position[pending] = (position[pending] + 1) & mask
        return position

    def _put(self, words: U64) -> U64:
        """Store (words,) distinct keys with their newest numbers; returns what their slots held, numbers plus one."""
        keys = (words >> _KEY).astype(np.uint32)
        found = np.zeros(len(words), np.uint64)
        pending = np.arange(len(words))
        while len(pending):
            position = self._positions(keys[pending])
            old = self._slots[position]
            self._slots[position] = words[pending]
            won = self._slots[position] == words[pending]  # of several keys that met at an empty slot, one
            found[pending[won]] = old[won] & _NUMBER
            self._n_used += int(np.count_nonzero(old[won] == 0))
            pending = pending[~won]
        return found

    def _grow(self) -> None:
        words = self._slots[self._slots != 0]
        self._bits += 1
        self._slots, self._n_used = np.zeros(1 << self._bits, np.uint64), 0
        for first in range(0, len(words), _KEYS_AT_ONCE):
            self._put(words[first : first + _KEYS_AT_ONCE])
