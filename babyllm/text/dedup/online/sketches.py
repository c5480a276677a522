"""Sketches of texts: what a record is compared by, and the keys under which it is found.

    texts -> folded -> simplified characters -> normal form -> shingles -> sets (32 bits a shingle), keys of bands

Short texts are compared by pairs of characters, since one edit of a question of eight characters changes half of its
5-grams. Pairs say little about a long text, of which most pairs occur in other texts too, so texts of more than
`SHORT` characters are compared by 5-grams as in the offline stage. A text whose length allows it to be similar to one
on the other side of that border has a second sketch, to be compared with those.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from babyllm.errors import UserError
from babyllm.ragged import GOLDEN, Ragged, compress, hash_rows, mix, offsets_of, take
from babyllm.text.dedup.near.minhash import Bands, signatures
from babyllm.text.dedup.near.shingles import ShingleConfig, ngrams, shingles
from babyllm.text.dedup.normal import characters, fold

SHORT = 200  # most characters of a text that is compared by pairs of characters
SHORT_N, LONG_N = 2, 5
_IDEOGRAPHS = ((0x3400, 0x4DC0), (0x4E00, 0xA000), (0xF900, 0xFB00), (0x20000, 0x323B0))
_SPACES = np.array([ord(c) for c in "\t\n\v\f\r\x1c\x1d\x1e\x1f \x85\u2028\u2029"], np.uint32)
_UPPER = np.uint64(32)


class Sketch(NamedTuple):
    """What a text is compared by.

    Attributes:
        n: number of tokens of a shingle.
        shingles: (shingles,) uint32 hashes, distinct and ascending.
        keys: key of each table, from 1 to 2**32 - 1; texts that share a key are candidates. The first is that of the
            whole set.
    """

    n: int
    shingles: NDArray[np.uint32]
    keys: list[int]


class Sketcher:
    """Makes sketches of texts.

    Args:
        config: shingles of all texts; None for pairs of characters of short texts and 5-grams of long ones.
        simplify: whether traditional Chinese characters count as their simplified forms.
        bands: bands of the signatures.
        threshold: least similarity of near-duplicates, which limits how much their lengths may differ.

    Raises:
        UserError: `simplify` needs OpenCC, which is not installed.
    """

    def __init__(self, config: ShingleConfig | None, simplify: bool, bands: Bands, threshold: float) -> None:
        self._config, self._bands, self._threshold = config, bands, threshold
        self._simplified = simplified_characters() if simplify else None

    def sketch(self, texts: Sequence[str]) -> list[list[Sketch]]:
        """The sketches of each text: its own, by which it is stored, and perhaps one to be compared by as well."""
        folded = fold(_column(texts))
        if self._simplified is not None:
            folded = Ragged(self._simplified.take(folded.values), folded.offsets)
        if self._config is not None:
            hashes = shingles(folded, self._config)
            return [[sketch] for sketch in self.of_sets(_sets(hashes, folded), [self._config.n] * len(texts))]
        normal = characters(folded)
        lengths = normal.lengths()
        result: list[list[Sketch]] = [[] for _ in texts]
        for n in (SHORT_N, LONG_N):
            is_own = (lengths <= SHORT) == (n == SHORT_N)
            rows = np.flatnonzero(
                lengths * self._threshold <= SHORT if n == SHORT_N else lengths > SHORT * self._threshold
            )
            if not len(rows):
                continue
            chosen, original = (normal, folded) if len(rows) == len(texts) else (take(normal, rows), take(folded, rows))
            sketches = self.of_sets(_sets(ngrams(chosen, n), original), [n] * len(rows))
            for row, sketch in zip(rows.tolist(), sketches, strict=True):
                result[row].insert(0 if is_own[row] else len(result[row]), sketch)
        return result

    def of_sets(self, sets: Ragged, n: Sequence[int]) -> list[Sketch]:
        """The sketches of sets of shingles.

        Args:
            sets: hashes (uint32) of each set, distinct and ascending.
            n: tokens of a shingle of each set.
        """
        hashes = Ragged(sets.values.astype(np.uint64) << _UPPER, sets.offsets)
        rows = signatures(hashes, self._bands.n * self._bands.rows).reshape(*self._bands, -1)
        keys = np.empty((len(n), self._bands.n + 1), np.uint64)
        keys[:, 0] = np.add.reduceat(mix(hashes.values), sets.offsets[:-1])
        keys[:, 1:] = (rows * _powers(self._bands.rows)[:, None]).sum(axis=1).T
        keys += np.arange(keys.shape[1], dtype=np.uint64) * GOLDEN
        keys += np.array(n, np.uint64)[:, None]
        numbers = np.maximum(mix(keys) >> _UPPER, 1).tolist()
        bounds = sets.offsets.tolist()
        return [Sketch(n[i], sets.values[bounds[i] : bounds[i + 1]], numbers[i]) for i in range(len(n))]


@cache
def simplified_characters() -> NDArray[np.uint32]:
    """(code points,) uint32: the simplified form of each character, itself if it has none or several characters.

    Raises:
        UserError: openCC is not installed.
    """
    try:
        import opencc
    except ImportError as error:
        raise UserError('simplify=True needs opencc: pip install "babyllm[corpus]", or take simplify=False') from error
    table = np.arange(sys.maxunicode + 1, dtype=np.uint32)
    points = [point for start, stop in _IDEOGRAPHS for point in range(start, stop)]
    # One call converts all characters; a line feed is in no phrase that OpenCC knows.
    simplified = opencc.OpenCC("t2s").convert("\n".join(map(chr, points))).split("\n")
    for point, text in zip(points, simplified, strict=True):
        if len(text) == 1:
            table[point] = ord(text)
    return table


def _column(texts: Sequence[str]) -> pa.Array:
    try:
        return pa.array(texts, pa.large_string())
    except UnicodeEncodeError:  # half a surrogate pair, as in a text cut by a program that counts UTF-16 units
        whole = [text.encode("utf-16", "surrogatepass").decode("utf-16", "replace") for text in texts]
        return pa.array(whole, pa.large_string())


def _sets(hashes: Ragged, folded: Ragged) -> Ragged:
    """The sets of shingles (uint32); that of a text without tokens is the hash of the folded text."""
    rows = np.arange(len(hashes.offsets) - 1, dtype=np.uint64)
    values = np.unique((np.repeat(rows, hashes.lengths()) << _UPPER) | (hashes.values >> _UPPER))
    lengths = np.bincount((values >> _UPPER).view(np.int64), minlength=len(rows))
    offsets, values = offsets_of(lengths), values.astype(np.uint32)  # of which the lower half is left
    if lengths.all():
        return Ragged(values, offsets)
    empty = np.flatnonzero(lengths == 0)
    bare = take(folded, empty)
    bare = compress(bare, ~np.isin(bare.values, _SPACES))
    whole = (hash_rows(bare)[0] >> _UPPER).astype(np.uint32)
    return Ragged(np.insert(values, offsets[empty], whole), offsets_of(np.maximum(lengths, 1)))


@cache
def _powers(rows: int) -> NDArray[np.uint64]:
    """(rows,) uint64 odd factors, by which the rows of a band become one key."""
    factors: NDArray[np.uint64] = mix(np.arange(1, rows + 1, dtype=np.uint64) * GOLDEN) | np.uint64(1)
    return factors
