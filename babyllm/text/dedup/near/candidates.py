"""Pairs of documents that may be alike: those that share a key in one of several tables.

    a slice's keys, (tables, documents) -> entries -> entries.npy, each table sorted
    entries.npy of all slices -> one range of one table's keys -> runs of one key -> pairs, groups

All pairs of a run of few documents are candidates. A larger one, which would give too many, is handed on as a group.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from babyllm.ragged import U64, Ragged, offsets_of

ALL_PAIRS_LIMIT = 16  # documents of a run that all pairs are made of
_DOCUMENT_BITS = np.uint64(32)
_DOCUMENT_MASK = np.uint64(0xFFFFFFFF)
NO_PAIRS = np.empty(0, np.uint64)


class Span(NamedTuple):
    """A range of the keys of one table: those whose 32 bits lie in [start, stop)."""

    table: int
    start: int
    stop: int


class Candidates(NamedTuple):
    """What shares a key.

    Attributes:
        pairs: see `pack`; sorted, distinct, the smaller document first.
        groups: the documents (int64, ascending) of each run too large for pairs.
    """

    pairs: U64
    groups: Ragged


def pack(high: NDArray[np.integer], low: NDArray[np.integer]) -> U64:
    """Two 32-bit numbers in one of 64 bits, which sorts by the first, then by the second."""
    packed: U64 = (high.astype(np.uint64) << _DOCUMENT_BITS) | low.astype(np.uint64)
    return packed


def unpack(packed: U64) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The two numbers of `pack`."""
    return (packed >> _DOCUMENT_BITS).view(np.int64), (packed & _DOCUMENT_MASK).view(np.int64)


def entries(keys: U64, documents: NDArray[np.int64]) -> U64:
    """(tables, documents): the upper 32 bits of each key with its document, sorted within each table."""
    packed: U64 = (keys & ~_DOCUMENT_MASK) | documents.astype(np.uint64)
    packed.sort(axis=1)
    return packed


def spans(n_tables: int, n_documents: int, entries_at_once: int, at_most: int | None = None) -> list[list[Span]]:
    """All keys of all tables in lists of spans that hold about `entries_at_once` entries, `at_most` so many spans."""
    n_ranges = max(1, -(-n_documents // entries_at_once))
    edges = [(i << 32) // n_ranges for i in range(n_ranges + 1)]
    all_spans = [Span(t, edges[i], edges[i + 1]) for t in range(n_tables) for i in range(n_ranges)]
    together = at_most or max(1, entries_at_once // max(1, n_documents))
    return [all_spans[i : i + together] for i in range(0, len(all_spans), together)]


def load(span: Span, files: Sequence[Path]) -> U64:
    """The entries of all slices within a span, sorted."""
    pieces = [NO_PAIRS]
    for file in files:
        table = np.load(file, mmap_mode="r")[span.table]
        start = np.searchsorted(table, np.uint64(span.start << 32))
        stop = len(table) if span.stop == 1 << 32 else np.searchsorted(table, np.uint64(span.stop << 32))
        pieces.append(np.asarray(table[start:stop]))
    found = np.concatenate(pieces)
    found.sort()
    return found


def find(found: U64) -> Candidates:
    """The pairs and groups among sorted entries."""
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
    """Candidates of several spans in one; of groups with the same documents one is left."""
    pairs = np.unique(np.concatenate([NO_PAIRS, *(f.pairs for f in found)]))
    groups: dict[bytes, NDArray[np.int64]] = {}
    for _, (members, offsets) in found:
        for start, stop in pairwise(offsets.tolist()):
            groups.setdefault(members[start:stop].tobytes(), members[start:stop])
    members = np.concatenate([np.empty(0, np.int64), *groups.values()])
    return Candidates(pairs, Ragged(members, offsets_of(np.array([len(g) for g in groups.values()], np.int64))))
