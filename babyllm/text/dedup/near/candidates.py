"""Candidates for near-duplicates: documents that share a key in one of several tables.

    a slice's keys, (tables, documents) -> entries -> a file, each table sorted
    files of all slices -> one range of one table's keys -> runs of one key -> pairs, groups

In a run of few documents all pairs are candidates. A larger run has too many pairs and is passed on as a group.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from babyllm.ragged import U64, Ragged, offsets_of

ALL_PAIRS_LIMIT = 16  # most documents of a run whose pairs are all candidates
_DOCUMENT_BITS = np.uint64(32)
_DOCUMENT_MASK = np.uint64(0xFFFFFFFF)
NO_PAIRS = np.empty(0, np.uint64)
PADDING = np.uint64(0xFFFFFFFFFFFFFFFF)  # after the entries of a table that has fewer than others; no document's


class Span(NamedTuple):
    """A range of the keys of one table: those whose upper 32 bits lie in [start, stop)."""

    table: int
    start: int
    stop: int


class Candidates(NamedTuple):
    """Documents that share a key.

    Attributes:
        pairs: (pairs,) uint64 packed pairs, see `pack`; sorted, distinct, the smaller document first.
        groups: documents (int64, ascending) of each run that is too large for pairs.
    """

    pairs: U64
    groups: Ragged


def pack(high: NDArray[np.integer], low: NDArray[np.integer]) -> U64:
    """(n,) uint64: two 32-bit numbers in one of 64 bits, which sorts by `high`, then by `low`, both (n,)."""
    packed: U64 = (high.astype(np.uint64) << _DOCUMENT_BITS) | low.astype(np.uint64)
    return packed


def unpack(packed: U64) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The two (n,) int64 numbers that `pack` packed."""
    return (packed >> _DOCUMENT_BITS).view(np.int64), (packed & _DOCUMENT_MASK).view(np.int64)


def entries(keys: U64, documents: NDArray[np.int64]) -> U64:
    """(tables, documents) uint64: the upper 32 bits of each key and its document, sorted within each table.

    Args:
        keys: (tables, documents) uint64 keys.
        documents: (documents,) int64 numbers of the documents, below 2**32.
    """
    packed: U64 = (keys & ~_DOCUMENT_MASK) | documents.astype(np.uint64)
    packed.sort(axis=1)
    return packed


def spans(n_tables: int, n_documents: int, entries_at_once: int, at_most: int | None = None) -> list[list[Span]]:
    """Spans that cover all keys of all tables, in lists of about `entries_at_once` entries, or of `at_most` spans."""
    n_ranges = max(1, -(-n_documents // entries_at_once))
    edges = [(i << 32) // n_ranges for i in range(n_ranges + 1)]
    all_spans = [Span(t, edges[i], edges[i + 1]) for t in range(n_tables) for i in range(n_ranges)]
    together = at_most or max(1, entries_at_once // max(1, n_documents))
    return [all_spans[i : i + together] for i in range(0, len(all_spans), together)]


def load(span: Span, files: Sequence[Path]) -> U64:
    """(n,) uint64 entries of all slices within a span, sorted."""
    pieces = [NO_PAIRS]
    for file in files:
        table = np.load(file, mmap_mode="r")[span.table]
        start = np.searchsorted(table, np.uint64(span.start << 32))
        stop = np.searchsorted(table, PADDING if span.stop == 1 << 32 else np.uint64(span.stop << 32))
        pieces.append(np.asarray(table[start:stop]))
    found = np.concatenate(pieces)
    found.sort()
    return found


def find(found: U64) -> Candidates:
    """The pairs and groups among (n,) sorted entries."""
    key = found >> _DOCUMENT_BITS
    edges = np.flatnonzero(np.concatenate([[True], key[1:] != key[:-1], [True]])) if len(key) else np.zeros(1, np.int64)
    sizes = np.diff(edges)
    size = np.repeat(sizes, sizes)
    pairs = [NO_PAIRS]
    small = found[(size > 1) & (size <= ALL_PAIRS_LIMIT)]
    key, document = unpack(small)
    for distance in range(1, ALL_PAIRS_LIMIT):
        same = key[distance:] == key[:-distance]
        if not same.any():
            break
        pairs.append(pack(document[:-distance][same], document[distance:][same]))
    large = size > ALL_PAIRS_LIMIT
    return Candidates(
        np.unique(np.concatenate(pairs)), Ragged(unpack(found[large])[1], offsets_of(sizes[sizes > ALL_PAIRS_LIMIT]))
    )


def merge(found: Sequence[Candidates]) -> Candidates:
    """The candidates of several spans together; of groups with the same documents, one stays."""
    pairs = np.unique(np.concatenate([NO_PAIRS, *(f.pairs for f in found)]))
    groups: dict[bytes, NDArray[np.int64]] = {}
    for _, (members, offsets) in found:
        for start, stop in pairwise(offsets.tolist()):
            groups.setdefault(members[start:stop].tobytes(), members[start:stop])
    members = np.concatenate([np.empty(0, np.int64), *groups.values()])
    return Candidates(pairs, Ragged(members, offsets_of(np.array([len(g) for g in groups.values()], np.int64))))
