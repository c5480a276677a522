"""SimHash fingerprints (Charikar 2002) and the tables that find all pairs within a Hamming distance (Manku 2007).

Each shingle votes, with its weight, for or against every bit of a fingerprint. Of bits cut into m blocks, two
fingerprints that differ in at most d bits agree in m - d blocks at least, so some choice of m - d blocks finds them.
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

N_FREQUENCIES = 1 << 20  # counters of shingles, which share one where their hashes do
_WEIGHT_UNIT = 1 << 8  # weights are whole multiples of 1 / this, so that their sums are exact
_CHUNK = 1 << 14
_SALTS = np.array([0x9E3779B97F4A7C15, 0x3C6EF372FE94F82A], np.uint64)  # one per 64 bits of a fingerprint
_ONES = np.array([bin(i).count("1") for i in range(256)], np.uint8)


@dataclass(frozen=True)
class SimHashConfig:
    """How fingerprints are made and compared.

    Attributes:
        bits: bits of a fingerprint, 64 or 128.
        distance: bits in which those of like texts differ at most.
        weights: of a shingle: equal, or tfidf = occurrences in the text x (1 + ln((1 + texts) / (1 + texts with it))).
    """

    bits: Literal[64, 128] = 64
    distance: AnyMembers = 3
    weights: Literal["equal", "tfidf"] = "equal"


def frequencies(sets: Ragged) -> NDArray[np.uint32]:
    """In how many of these sets each counter's shingles are."""
    return np.bincount(_counter(sets.values), minlength=N_FREQUENCIES).astype(np.uint32)


def inverse_frequencies(counts: NDArray[np.integer], n_documents: int) -> NDArray[np.float64]:
    """The idf of each counter's shingles."""
    return 1 + np.log((1 + n_documents) / (1 + counts.astype(np.float64)))


def weights(sets: Ragged, occurrences: NDArray[np.int64], idf: NDArray[np.float64]) -> NDArray[np.int64]:
    """What each shingle of the sets weighs, a whole number."""
    return np.rint(occurrences * idf[_counter(sets.values)] * _WEIGHT_UNIT).astype(np.int64)


def fingerprints(sets: Ragged, weight: NDArray[np.int64] | None, bits: int) -> U64:
    """The fingerprint of each set, (sets, bits / 64): bit i is one where those for it weigh more than those against.

    Args:
        sets: sets of shingles.
        weight: the weight of each shingle; None for equal ones.
        bits: 64 or 128.
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
    """Blocks that make keys long enough to keep texts that are not alike apart, without too many tables."""
    enough = math.log2(max(2, n_documents)) + 2
    for m in range(config.distance + 1, config.distance + 4):
        if config.bits * (m - config.distance) // m >= enough:
            return m
    return config.distance + 3


def table_keys(prints: U64, n: int, distance: int) -> U64:
    """The keys of fingerprints, (tables, fingerprints): of each choice of n - distance out of n blocks of bits."""
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
    """In how many bits fingerprints differ, row by row."""
    different: NDArray[np.int64] = (
        _ONES[(a ^ b).view(np.uint8)].reshape(len(a), 8 * a.shape[1]).sum(axis=1, dtype=np.int64)
    )
    return different


def within(pairs: U64, prints: U64, distance: int) -> U64:
    """The pairs of documents whose fingerprints, at their numbers, are near enough."""
    a, b = unpack(pairs)
    return pairs[hamming(prints[a], prints[b]) <= distance]


def _counter(hashes: U64) -> NDArray[np.int64]:
    counter: NDArray[np.int64] = (hashes & np.uint64(N_FREQUENCIES - 1)).view(np.int64)
    return counter
