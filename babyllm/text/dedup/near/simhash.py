"""SimHash fingerprints (Charikar 2002) and the tables that find all pairs within a Hamming distance (Manku 2007).

Each shingle votes, with its weight, for or against every bit of a fingerprint. If bits are cut into m blocks, two
fingerprints that differ in at most d bits agree in at least m - d blocks, so some choice of m - d blocks finds them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from babyllm.config.values import AnyMembers
from babyllm.ragged import U64, Ragged, mix, reduce_rows
from babyllm.text.dedup.near.candidates import unpack
from babyllm.text.dedup.near.frequencies import idf_of
from babyllm.text.dedup.near.shingles import counted

_WEIGHT_UNIT = 1 << 8  # weights are multiples of 1 / _WEIGHT_UNIT, so that their sums are exact
_CHUNK = 1 << 14  # shingles processed at once
_SALTS = np.array([0x9E3779B97F4A7C15, 0x3C6EF372FE94F82A], np.uint64)  # one per 64 bits of a fingerprint
_ONES = np.array([bin(i).count("1") for i in range(256)], np.uint8)


@dataclass(frozen=True)
class SimHashConfig:
    """How fingerprints are computed and compared.

    Attributes:
        bits: bits of a fingerprint, 64 or 128.
        distance: largest number of bits in which candidates differ.
        weights: weights of shingles: equal, or tfidf = occurrences in the text x (1 + ln((1 + texts) / (1 + texts with
            the shingle))).
    """

    bits: Literal[64, 128] = 64
    distance: AnyMembers = 3
    weights: Literal["equal", "tfidf"] = "equal"


def weights(sets: Ragged, occurrences: NDArray[np.int64], idf: NDArray[np.float64]) -> NDArray[np.int64]:
    """(shingles,) int64 weights.

    Args:
        sets: sets of shingles.
        occurrences: (shingles,) occurrences of each shingle in its text.
        idf: (N_COUNTERS,) idf of each counter, see `frequencies`.
    """
    return np.rint(occurrences * idf_of(sets.values, idf) * _WEIGHT_UNIT).astype(np.int64)


def fingerprints(sets: Ragged, weight: NDArray[np.int64] | None, bits: int) -> U64:
    """(sets, bits / 64) uint64 fingerprints: bit i is one if the votes for it weigh more than those against it.

    Args:
        sets: sets of shingles.
        weight: (shingles,) int64 weights; None for equal ones.
        bits: bits of a fingerprint, 64 or 128.
    """
    result = np.empty((len(sets.offsets) - 1, bits // 64), np.uint64)
    first = 0
    while first < len(result):
        last = max(first + 1, int(np.searchsorted(sets.offsets, sets.offsets[first] + _CHUNK)) - 1)
        offsets = sets.offsets[first : last + 1]
        inside = slice(offsets[0], offsets[-1])
        total = np.diff(offsets)
        if weight is not None:
            total = reduce_rows(np.add, Ragged(weight[inside], offsets - offsets[0]), 0)
        for word in range(bits // 64):
            votes = mix(sets.values[inside] + _SALTS[word]).astype("<u8").view(np.uint8)
            ones: NDArray[Any] = np.unpackbits(votes.reshape(-1, 8), axis=1, bitorder="little")
            if weight is not None:
                ones = ones * weight[inside, None]
            for_it = np.zeros((len(total), 64), np.int64)
            filled = np.diff(offsets) > 0
            if filled.any():
                for_it[filled] = np.add.reduceat(ones, (offsets[:-1] - offsets[0])[filled], axis=0, dtype=np.int64)
            packed = np.packbits(2 * for_it > total[:, None], axis=1, bitorder="little")
            result[first:last, word] = packed.view("<u8")[:, 0]
        first = last
    return result


def n_blocks(config: SimHashConfig, n_documents: int) -> int:
    """The number of blocks for keys long enough to separate dissimilar texts, without too many tables."""
    enough = math.log2(max(2, n_documents)) + 2
    for m in range(config.distance + 1, config.distance + 4):
        if config.bits * (m - config.distance) // m >= enough:
            return m
    return config.distance + 3


def table_keys(prints: U64, n: int, distance: int) -> U64:
    """(tables, fingerprints) uint64 keys: one table for each choice of n - distance out of n blocks of bits."""
    bits = prints.shape[1] * 64
    edges = [i * bits // n for i in range(n + 1)]
    is_in_block = np.zeros((n, bits), np.uint8)
    for i in range(n):
        is_in_block[i, edges[i] : edges[i + 1]] = 1
    masks = np.packbits(is_in_block, axis=1, bitorder="little").view("<u8")
    tables = []
    for chosen in combinations(range(n), n - distance):
        mask = np.bitwise_or.reduce(masks[list(chosen)], axis=0)
        key = np.zeros(len(prints), np.uint64)
        for word in range(prints.shape[1]):
            key += prints[:, word] & mask[word]
            mix(key)
        tables.append(key)
    return np.stack(tables)


def hamming(a: U64, b: U64) -> NDArray[np.int64]:
    """(rows,) int64: the number of bits in which two rows of (rows, words) fingerprints differ."""
    different: NDArray[np.int64] = (
        _ONES[(a ^ b).view(np.uint8)].reshape(len(a), 8 * a.shape[1]).sum(axis=1, dtype=np.int64)
    )
    return different


def within(pairs: U64, prints: U64, distance: int) -> U64:
    """The packed pairs (pairs,) uint64 of documents whose fingerprints differ in at most `distance` bits.

    Args:
        pairs: (pairs,) uint64, see `candidates.pack`.
        prints: (documents, bits / 64) uint64, in rows by document number.
        distance: largest number of bits in which a pair may differ.
    """
    a, b = unpack(pairs)
    return pairs[hamming(prints[a], prints[b]) <= distance]


class SimHash:
    """SimHash as a method of `methods.METHODS`.

    Args:
        config: settings of SimHash.
        n_documents: number of documents of all corpora.
        idf: (N_COUNTERS,) idf of each counter, see `frequencies`; None for equal weights.
    """

    def __init__(self, config: SimHashConfig, n_documents: int, idf: NDArray[np.float64] | None) -> None:
        self._config, self._idf, self._n_blocks = config, idf, n_blocks(config, n_documents)
        self.n_tables = math.comb(self._n_blocks, self._n_blocks - config.distance)

    def sketch(self, hashes: Ragged) -> tuple[U64, U64]:
        """(tables, texts) and (texts, bits / 64) uint64: keys and fingerprints of each text's shingles."""
        sets, occurrences = counted(hashes)
        weight = None if self._idf is None else weights(sets, occurrences, self._idf)
        prints = fingerprints(sets, weight, self._config.bits)
        return table_keys(prints, self._n_blocks, self._config.distance), prints

    def narrow(self, pairs: U64, prints: U64) -> U64:
        """The packed pairs (pairs,) uint64 within the distance."""
        return within(pairs, prints, self._config.distance)

    def fact(self) -> tuple[str, str]:
        """The bits and the distance."""
        return "SimHash", f"{self._config.bits} bits, {self._config.distance} of which may differ"
