"""n-grams of many texts at once: units as hashes in one array, equal n-grams brought together by sorting.

texts -> code points -> units (hash, size, text) -> keys [40 bits of hash | 24 bits of position] -> sorted -> shares

Legend: C code points, U units, G n-grams, D texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from babyllm.ragged import GOLDEN, mix
from babyllm.text.clean.syntax.characters import HAN, KANA, fill, table

GAP, LONE, WORD = 0, 1, 2  # kinds of code points: between units; a unit by itself; part of a word
_PLACE_BITS = 24


def code_points(texts: Sequence[str]) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """(C,) uint32 code points of all texts, each followed by a line break, and (D + 1,) int64 where each begins."""
    codes = np.frombuffer("\n".join([*texts, ""]).encode("utf-32-le"), dtype="<u4")
    starts = np.zeros(len(texts) + 1, np.int64)
    np.cumsum([len(text) + 1 for text in texts], out=starts[1:])
    return codes, starts


@cache
def unit_kinds() -> NDArray[np.uint8]:
    """(0x110000,) uint8 kind of every code point: `GAP`, `LONE` (Chinese characters, kana) or `WORD`."""
    kinds = table(lambda character: WORD if character.isalnum() else GAP, GAP)
    fill(kinds, HAN + KANA, LONE)
    return kinds


@dataclass(frozen=True)
class Units:
    """The units of some texts, one after another; fewer than 2**24.

    A unit is a Chinese character, a kana or a word of another script.

    Attributes:
        hashes: (U,) uint64 hash of each unit.
        sizes: (U,) int64 number of characters of each unit.
        texts: (U,) int64 index of each unit's text.
        text_sizes: (D,) int64 number of characters in all units of each text.
    """

    hashes: NDArray[np.uint64]
    sizes: NDArray[np.int64]
    texts: NDArray[np.int64]
    text_sizes: NDArray[np.int64]

    @staticmethod
    def of(texts: Sequence[str]) -> Units:
        """The units of texts."""
        codes, starts = code_points(texts)
        kinds = unit_kinds()[codes]
        begins = kinds == LONE
        begins[0] |= kinds[0] == WORD
        begins[1:] |= (kinds[1:] == WORD) & (kinds[:-1] != WORD)
        inside = np.flatnonzero(kinds)
        codes = codes[inside].astype(np.uint64)
        first = np.flatnonzero(begins[inside])
        sizes = np.diff(first, append=len(inside))
        places = (np.arange(len(inside)) - np.repeat(first, sizes)).astype(np.uint64)
        mixed = mix(codes + (places << np.uint64(32)))
        hashes = np.add.reduceat(mixed, first) if len(first) else mixed
        owner = np.searchsorted(starts, inside[first], side="right") - 1
        return Units(hashes, sizes, owner, np.bincount(owner, sizes, len(texts)).astype(np.int64))

    def only(self, wanted: NDArray[np.bool_]) -> Units:
        """The units of the texts for which `wanted`, (D,) bool, is true; the texts keep their indices."""
        kept = wanted[self.texts]
        return Units(self.hashes[kept], self.sizes[kept], self.texts[kept], self.text_sizes)

    def largest_share(self, n: int) -> NDArray[np.float64]:
        """(D,) float64 share of each text's characters that its most frequent n-gram makes up; 0 if none repeats."""
        places, is_repeat = self._sorted_grams(n)
        starts = np.flatnonzero(~is_repeat)
        counts = np.diff(starts, append=len(places))
        places, counts = places[starts[counts > 1]], counts[counts > 1]
        ends = np.concatenate([[0], np.cumsum(self.sizes)])
        shares = np.zeros(len(self.text_sizes))
        owners = self.texts[places]
        np.maximum.at(shares, owners, counts * (ends[places + n] - ends[places]) / self.text_sizes[owners])
        return shares

    def repeated_share(self, n: int) -> NDArray[np.float64]:
        """(D,) float64 share of each text's characters within n-grams that occurred before in it.

        Characters within several such n-grams count once.
        """
        places, is_repeat = self._sorted_grams(n)
        change = np.zeros(len(self.sizes) + 1, np.int64)
        change[places[is_repeat]] += 1
        change[places[is_repeat] + n] -= 1
        is_covered = np.cumsum(change[:-1]) > 0
        covered = np.bincount(self.texts[is_covered], self.sizes[is_covered], len(self.text_sizes))
        return covered / np.maximum(1, self.text_sizes)

    def _sorted_grams(self, n: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """The n-grams, equal ones of a text side by side.

        Returns:
            (G,) int64 index of each n-gram's first unit, and (G,) bool: whether it equals the n-gram before it.
        """
        n_grams = max(0, len(self.hashes) - n + 1)
        keys = self.texts[:n_grams].astype(np.uint64)
        for i in range(n):
            keys = keys * GOLDEN + self.hashes[i : i + n_grams]
        is_whole = self.texts[:n_grams] == self.texts[n - 1 :][:n_grams]
        places = np.arange(n_grams, dtype=np.uint64)
        keys = (keys >> np.uint64(_PLACE_BITS) << np.uint64(_PLACE_BITS) | places)[is_whole]
        keys.sort()
        hashes = keys >> np.uint64(_PLACE_BITS)
        is_repeat = np.concatenate([np.zeros(min(1, len(keys)), np.bool_), hashes[1:] == hashes[:-1]])
        return (keys & np.uint64((1 << _PLACE_BITS) - 1)).astype(np.int64), is_repeat
