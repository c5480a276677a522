"""The true Jaccard similarity of candidates, from the sets of their shingles.

    slice, wanted documents -> sets.npy, documents.npy, offsets.npy       (a folder per slice)
    folders -> SetStore -> jaccard(pairs) -> links: pairs at the threshold or above

Large groups are not compared pair by pair. A representative is compared with all others; the next one is a document
that is similar to no representative so far; and so on, up to `MAX_REPRESENTATIVES`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from babyllm.ragged import U64, Ragged, offsets_of, reduce_rows, take
from babyllm.text.dedup.near.candidates import NO_PAIRS, pack, unpack
from babyllm.text.dedup.near.shingles import SET_BITS

MAX_REPRESENTATIVES = 64
_CHUNK = 1 << 19  # shingles compared at once
_BLOCK = 1 << 21  # shingles of a large group that are held at once


class Links(NamedTuple):
    """Pairs of similar documents.

    Attributes:
        pairs: (pairs,) uint64 packed pairs, see `candidates.pack`.
        similarity: (pairs,) float64 Jaccard similarity of each pair.
    """

    pairs: U64
    similarity: NDArray[np.float64]


def write_sets(folder: Path, documents: NDArray[np.int64], sets: Ragged) -> None:
    """Store the sets of these documents, (n,) int64 and ascending, for a `SetStore`."""
    np.save(folder / "documents.npy", documents)
    np.save(folder / "offsets.npy", sets.offsets)
    np.save(folder / "sets.npy", sets.values)


class SetStore:
    """The sets of shingles in the folders of all slices, which follow each other in document order."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self._files = [np.load(folder / "sets.npy", mmap_mode="r") for folder in folders]
        documents = [np.load(folder / "documents.npy") for folder in folders]
        offsets = [np.load(folder / "offsets.npy") for folder in folders]
        self._documents = np.concatenate([np.empty(0, np.int64), *documents])
        self._starts = np.concatenate([np.empty(0, np.int64), *(o[:-1] for o in offsets)])
        self._lengths = np.concatenate([np.empty(0, np.int64), *map(np.diff, offsets)])
        self._file_of_row = np.repeat(np.arange(len(folders)), [len(d) for d in documents])

    def rows(self, documents: NDArray[np.int64]) -> NDArray[np.int64]:
        """(n,) int64 row of each of (n,) documents, all of which must be in this store."""
        return np.searchsorted(self._documents, documents)

    def lengths(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """(n,) int64 sizes of the sets in (n,) rows."""
        return self._lengths[rows]

    def sets(self, rows: NDArray[np.int64]) -> Ragged:
        """The sets in (n,) ascending rows."""
        pieces = [np.empty(0, np.uint64)]
        for number in np.unique(self._file_of_row[rows]):
            inside = rows[self._file_of_row[rows] == number]
            first, last = inside[0], inside[-1]
            span = Ragged(
                self._files[number], np.append(self._starts[first : last + 1], self._starts[last] + self._lengths[last])
            )
            pieces.append(take(span, inside - first).values)
        return Ragged(np.concatenate(pieces), offsets_of(self._lengths[rows]))

    def any_sets(self, documents: NDArray[np.int64]) -> Ragged:
        """The sets of (n,) distinct documents, in the given order."""
        rows = self.rows(documents)
        order = np.argsort(rows)
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        return take(self.sets(rows[order]), place)


def jaccard(store: SetStore, pairs: U64) -> NDArray[np.float64]:
    """(pairs,) float64 Jaccard similarity of each of (pairs,) packed pairs of documents."""
    left, right = (store.rows(documents) for documents in unpack(pairs))
    similarity = np.empty(len(pairs))
    lengths = store.lengths(left) + store.lengths(right)
    ends = np.cumsum(lengths)
    first = 0
    while first < len(pairs):
        before = ends[first - 1] if first else 0
        stop = max(first + 1, int(np.searchsorted(ends, before + _CHUNK, side="right")))
        stop = min(stop, first + (1 << (64 - SET_BITS)))
        rows, place = np.unique(np.concatenate([left[first:stop], right[first:stop]]), return_inverse=True)
        common = _common(take(store.sets(rows), place.reshape(-1)), stop - first)
        similarity[first:stop] = common / (lengths[first:stop] - common)
        first = stop
    return similarity


def verify(store: SetStore, pairs: U64, threshold: float) -> Links:
    """The links among packed pairs (pairs,) uint64: those whose Jaccard similarity is at least the threshold."""
    lengths = [store.lengths(store.rows(documents)) for documents in unpack(pairs)]
    pairs = pairs[np.minimum(*lengths) >= threshold * np.maximum(*lengths)]  # else the sizes rule it out
    similarity = jaccard(store, pairs)
    return Links(pairs[similarity >= threshold], similarity[similarity >= threshold])


def verify_groups(store: SetStore, groups: Ragged, threshold: float) -> Links:
    """Links between representatives of each group and documents similar to them; contents alone decide the choice."""
    ordered = [_by_content(store, groups.values[start:stop]) for start, stop in pairwise(groups.offsets.tolist())]
    members = np.concatenate([np.empty(0, np.int64), *ordered])
    return verify_in_order(store, Ragged(members, groups.offsets), np.zeros(len(members), bool), threshold)


def verify_in_order(store: SetStore, groups: Ragged, stays: NDArray[np.bool_], threshold: float) -> Links:
    """Links between representatives of each group and documents similar to them.

    Args:
        store: sets of all members.
        groups: documents (int64) of each group, in the order in which they become representatives.
        stays: (members,) bool: whether each member may be a representative even if it is similar to an earlier one.
        threshold: lowest similarity of a link.
    """
    found = [Links(NO_PAIRS, np.empty(0))]
    for start, stop in pairwise(groups.offsets.tolist()):
        found += _by_representatives(store, groups.values[start:stop], stays[start:stop], threshold)
    pairs, first = np.unique(np.concatenate([links.pairs for links in found]), return_index=True)
    return Links(pairs, np.concatenate([links.similarity for links in found])[first])


def _by_content(store: SetStore, members: NDArray[np.int64]) -> NDArray[np.int64]:
    """The members in an order that depends on their contents alone."""
    content = [reduce_rows(np.add, store.any_sets(block), np.uint64(0)) for block in _blocks(store, members)]
    return members[np.argsort(np.concatenate(content), kind="stable")]


def _by_representatives(
    store: SetStore, members: NDArray[np.int64], stays: NDArray[np.bool_], threshold: float
) -> Iterator[Links]:
    """The links of one group, a block of members at a time, so that a group may have any size."""
    representatives: list[tuple[np.int64, U64]] = []
    n_before = 0
    for block in _blocks(store, members):
        stays_open = stays[n_before : n_before + len(block)]
        n_before += len(block)
        sets = store.any_sets(block)
        known, place = np.unique(sets.values, return_inverse=True)
        is_open = np.ones(len(block), bool)
        compared = 0
        while compared < len(representatives) or (is_open.any() and compared < MAX_REPRESENTATIVES):
            if compared == len(representatives):
                first = int(np.argmax(is_open))
                representatives.append((block[first], sets.values[sets.offsets[first] : sets.offsets[first + 1]]))
            document, elements = representatives[compared]
            before = offsets_of(np.isin(known, elements)[place])
            common = before[sets.offsets[1:]] - before[sets.offsets[:-1]]
            similarity = common / (len(elements) + sets.lengths() - common)
            is_open &= (similarity < threshold) | stays_open
            is_open[block == document] = False
            linked = (similarity >= threshold) & (block != document)
            others = block[linked]
            yield Links(pack(np.minimum(document, others), np.maximum(document, others)), similarity[linked])
            compared += 1


def _blocks(store: SetStore, members: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """The members in blocks of at most `_BLOCK` shingles, or of one member."""
    ends = np.cumsum(store.lengths(store.rows(members)))
    first = 0
    while first < len(members):
        before = ends[first - 1] if first else 0
        stop = max(first + 1, int(np.searchsorted(ends, before + _BLOCK, side="right")))
        yield members[first:stop]
        first = stop


def _common(sets: Ragged, n: int) -> NDArray[np.int64]:
    """(n,) int64 number of values that the sets i and n + i of 2 n sets share."""
    pair = np.tile(np.arange(n, dtype=np.uint64), 2) << np.uint64(SET_BITS)
    values = sets.values | np.repeat(pair, sets.lengths())
    values.sort()
    twice = values[1:][values[1:] == values[:-1]]
    return np.bincount((twice >> np.uint64(SET_BITS)).view(np.int64), minlength=n)
