"""The numbers of the kept records by the keys of their bands, in 8 bytes a slot and 4 bytes an entry.

A slot of the hash table (open addressing, linear probing) holds a key of 32 bits and the number of the newest record
that has it. Each record has, for each of its keys, the number of the record before it with the same key; so the records
of a key form a chain from the newest to the oldest. All tables share the slots: keys depend on their table, and the few
keys that agree by chance only add candidates, which are compared anyway.

Loops over the keys of one record are plain Python on memory views: that is faster than numpy on so few numbers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from babyllm.ragged import U64

CHAIN = 64  # most records of a key that are candidates: the newest
_NOBODY = 0xFFFFFFFF
_NUMBER = 0xFFFFFFFF  # lower half of a slot: the number of a record plus one, 0 for none
_KEY = np.uint64(32)
_FULLEST = 0.6  # share of the slots in use at which there are twice as many


class BandTable:
    """Finds the numbers of records that share a key; numbers count up from 0.

    Args:
        n_tables: number of keys of a record; each is from 1 to 2**32 - 1.
    """

    def __init__(self, n_tables: int) -> None:
        self._n_tables, self._n_records, self._n_used = n_tables, 0, 0
        self._set_slots(np.zeros(1 << 12, np.uint64))
        self._before = np.empty((1024, n_tables), np.uint32)
        self._older = self._before.reshape(-1).data

    def candidates(self, keys: Sequence[int]) -> Counter[int]:
        """The number of keys that each record shares with these, for the records that share any."""
        slots, mask, shift, older = self._words, self._mask, self._shift, self._older
        found: Counter[int] = Counter()
        for table, key in enumerate(keys):
            position = key >> shift
            while (word := slots[position]) and word >> 32 != key:
                position = (position + 1) & mask
            number = (word & _NUMBER) - 1
            left = CHAIN
            while 0 <= number != _NOBODY and left:
                found[number] += 1
                number = older[number * self._n_tables + table]
                left -= 1
        return found

    def append(self, keys: Sequence[int]) -> None:
        """Store the keys of the next record."""
        if self._n_used + len(keys) > _FULLEST * len(self._words):
            self._grow()
        number = self._n_records
        if number == len(self._before):
            room = np.empty((number * 3 // 2, self._n_tables), np.uint32)
            room[:number] = self._before
            self._before, self._older = room, room.reshape(-1).data
        slots, mask, shift = self._words, self._mask, self._shift
        older = []
        for key in keys:
            position = key >> shift
            while (word := slots[position]) and word >> 32 != key:
                position = (position + 1) & mask
            self._n_used += not word
            older.append(((word & _NUMBER) - 1) & _NOBODY)
            slots[position] = key << 32 | number + 1
        self._before[number] = older
        self._n_records = number + 1

    def remove_last(self, keys: Sequence[int]) -> None:
        """Remove the newest record, whose keys these are."""
        self._n_records -= 1
        older = self._before[self._n_records].tolist()
        for key, number in reversed(list(zip(keys, older, strict=True))):
            position = key >> self._shift
            while self._words[position] >> 32 != key:
                position = (position + 1) & self._mask
            self._words[position] = key << 32 | ((number + 1) & _NUMBER)

    def _grow(self) -> None:
        """Twice the slots; their order by key makes each end up near its own position."""
        words = self._slots[self._slots != 0]
        words.sort()
        slots = np.zeros(2 * len(self._slots), np.uint64)
        self._set_slots(slots)
        # A key's position is that of its upper bits, or the next one if the key before it is there.
        rank = np.arange(len(words))
        position = (words >> np.uint64(32 + self._shift)).astype(np.int64) - rank
        np.maximum.accumulate(position, out=position)
        position += rank
        fits = position < len(slots)
        slots[position[fits]] = words[fits]
        for word in words[~fits].tolist():  # those at the end begin again at 0
            place = 0
            while self._words[place]:
                place += 1
            self._words[place] = word

    def _set_slots(self, slots: U64) -> None:
        self._slots, self._words = slots, slots.data
        self._mask = len(slots) - 1
        self._shift = 33 - len(slots).bit_length()
