"""MinHash signatures and their bands (Broder 1997; Leskovec, Rajaraman, Ullman, Mining of Massive Datasets, chapter 3).

Row k of a signature is the least `multiplier[k] * shingle mod 2**32` over a text's shingles. Two texts share it with
probability s, their Jaccard similarity, and share one of b bands of r rows with probability 1 - (1 - s**r)**b. The
bands follow from the settings: the fewest that find a pair at the threshold with the wanted probability.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Annotated, NamedTuple

import numpy as np
from numpy.typing import NDArray

from babyllm.config.values import Limits, Members, ShareBelow1
from babyllm.errors import UserError
from babyllm.ragged import U64, Ragged, mix, reduce_rows

_CHUNK = 1 << 17  # shingles processed at once: they stay in a core's cache
_AT_ONCE = 1 << 16  # products of few texts, computed in one call
EMPTY = np.uint32(0xFFFFFFFF)
MOST_ROWS = 5  # of a default band: at a threshold of 0.85, one in some thousands of dissimilar pairs shares a key


@dataclass(frozen=True)
class MinHashConfig:
    """How MinHash finds candidates; their similarity is then computed from their shingles.

    Attributes:
        permutations: largest number of rows of a signature; only as many are computed as the bands need.
        recall: probability of finding a pair whose similarity is exactly the threshold.
        rows: rows of a band; null takes 5, or as many as the permutations allow. More rows give fewer false candidates
            and longer signatures.
    """

    permutations: Annotated[int, Limits(1, 65_536)] = 256
    recall: ShareBelow1 = 0.995
    rows: Members | None = None


class Bands(NamedTuple):
    """The bands of a signature: `n` bands of `rows` rows each."""

    n: int
    rows: int

    def recall(self, similarity: float) -> float:
        """The probability that two texts of this Jaccard similarity share a band."""
        return 1 - (1 - similarity**self.rows) ** self.n


def choose_bands(config: MinHashConfig, threshold: float) -> Bands:
    """The bands that find pairs at the threshold with the wanted probability, within the permutations.

    Raises:
        UserError: there are too few permutations.
    """
    fits = []
    for rows in range(1, MOST_ROWS + 1) if config.rows is None else [config.rows]:
        miss = -math.expm1(rows * math.log(threshold)) if threshold < 1 else 0.0  # 1 - threshold**rows
        n = math.ceil(math.log1p(-config.recall) / math.log(miss)) if miss else 1
        if max(n, 1) * rows <= config.permutations:
            fits.append(Bands(max(n, 1), rows))
    if not fits:
        raise UserError(
            f"--minhash.permutations={config.permutations} do not reach --minhash.recall={config.recall} at "
            f"--threshold={threshold}: take more permutations, fewer --minhash.rows or less recall"
        )
    return max(fits, key=lambda bands: bands.rows)


def signatures(shingles: Ragged, n: int) -> NDArray[np.uint32]:
    """(n, texts) uint32 MinHash signatures; EMPTY in the column of a text without shingles."""
    multipliers = _multipliers(n)
    result = np.empty((n, len(shingles.offsets) - 1), np.uint32)
    if n * len(shingles.values) <= _AT_ONCE and (shingles.lengths() > 0).all():
        hashes = (shingles.values >> np.uint64(32)).astype(np.uint32)
        return np.minimum.reduceat(multipliers[:, None] * hashes, shingles.offsets[:-1], axis=1, out=result)
    first = 0
    while first < result.shape[1]:
        last = max(first + 1, int(np.searchsorted(shingles.offsets, shingles.offsets[first] + _CHUNK)) - 1)
        offsets = shingles.offsets[first : last + 1]
        hashes = (shingles.values[offsets[0] : offsets[-1]] >> np.uint64(32)).astype(np.uint32)
        products, starts = np.empty_like(hashes), offsets - offsets[0]
        for k in range(n):
            np.multiply(hashes, multipliers[k], out=products)
            reduce_rows(np.minimum, Ragged(products, starts), EMPTY, out=result[k, first:last])
        first = last
    return result


def band_keys(signature: NDArray[np.uint32], bands: Bands) -> U64:
    """(bands, texts) uint64 keys, from (rows, texts) signatures: equal where all rows of the band are equal."""
    keys = np.zeros((bands.n, signature.shape[1]), np.uint64)
    for row in range(bands.rows):
        keys += signature[row : bands.n * bands.rows : bands.rows]
        mix(keys)
    return keys


class MinHash:
    """MinHash as a method of `methods.METHODS`.

    Args:
        config: settings of MinHash.
        threshold: least Jaccard similarity of near-duplicates.

    Raises:
        UserError: there are too few permutations.
    """

    def __init__(self, config: MinHashConfig, threshold: float) -> None:
        self.bands = choose_bands(config, threshold)
        self.n_tables = self.bands.n
        self._threshold = threshold

    def sketch(self, hashes: Ragged) -> tuple[U64, None]:
        """(bands, texts) uint64 keys, and no fingerprints, from the uint64 hashes of each text's shingles."""
        return band_keys(signatures(hashes, self.bands.n * self.bands.rows), self.bands), None

    def narrow(self, pairs: U64, prints: U64) -> U64:
        """All packed pairs, (pairs,) uint64."""
        return pairs

    def fact(self) -> tuple[str, str]:
        """The bands and their recall."""
        n, rows = self.bands
        recall = self.bands.recall(self._threshold)
        return "MinHash", f"{n} bands of {rows} rows, recall {recall:.4f} at the threshold"


@cache
def _multipliers(n: int) -> NDArray[np.uint32]:
    """(n,) uint32 odd numbers, so that each multiplication is a permutation of the 32-bit values."""
    numbers = mix(np.arange(1, n + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15))
    multipliers: NDArray[np.uint32] = (numbers >> np.uint64(32)).astype(np.uint32) | np.uint32(1)
    return multipliers
