"""The document frequency of each shingle, in a fixed number of counters, and its inverse (idf)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from babyllm.ragged import U64, Ragged

N_COUNTERS = 1 << 20  # shingles share a counter if the lower bits of their hashes are equal


def frequencies(sets: Ragged) -> NDArray[np.uint32]:
    """(N_COUNTERS,) uint32: the number of sets that contain a shingle of each counter, added over its shingles."""
    return np.bincount(_counter(sets.values), minlength=N_COUNTERS).astype(np.uint32)


def inverse_frequencies(counts: NDArray[np.integer], n_documents: int) -> NDArray[np.float64]:
    """(N_COUNTERS,) float64: 1 + ln((1 + documents) / (1 + documents with the counter's shingles))."""
    return 1 + np.log((1 + n_documents) / (1 + counts.astype(np.float64)))


def idf_of(hashes: U64, idf: NDArray[np.float64]) -> NDArray[np.float64]:
    """(shingles,) float64 idf of (shingles,) uint64 hashes, given the (N_COUNTERS,) idf of each counter."""
    return idf[_counter(hashes)]


def _counter(hashes: U64) -> NDArray[np.int64]:
    counter: NDArray[np.int64] = (hashes & np.uint64(N_COUNTERS - 1)).view(np.int64)
    return counter
