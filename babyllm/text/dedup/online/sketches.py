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
from babyllm.text.dedup.near.minhash import Bands, band_keys, signatures
from babyllm.text.dedup.near.shingles import SET_BITS, ShingleConfig, distinct, ngrams, shingles
from babyllm.text.dedup.normal import characters, fold

SHORT = 200  # most characters of a text that is compared by pairs of characters
SHORT_N, LONG_N = 2, 5
_IDEOGRAPHS = ((0x3400, 0x4DC0), (0x4E00, 0xA000), (0xF900, 0xFB00), (0x20000, 0x323B0))
_SPACES = np.array([ord(c) for c in "\t\n\v\f\r\x1c\x1d\x1e\x1f \x85\u2028\u2029"], np.uint32)
_HIGH_32 = np.uint64(0xFFFFFFFF00000000)
_UPPER = np.uint64(32)


class Sketches(NamedTuple):
    """The sketches of several texts; a text has one of its own, and perhaps a second one to be compared by.

    Attributes:
        sets: distinct shingles (uint32, ascending) of each sketch.
        keys: (sketches, tables) uint32 keys; two texts that share a key of a table are candidates. The first is that
            of the whole set.
        n: (sketches,) uint32 tokens of a shingle of each sketch.
        text: (sketches,) int64 index of the text of each sketch, ascending.
        is_own: (sketches,) bool: whether it is the sketch that is stored if the text is kept.
    """

    sets: Ragged
    keys: NDArray[np.uint32]
    n: NDArray[np.uint32]
    text: NDArray[np.int64]
    is_own: NDArray[np.bool_]

    def select(self, rows: NDArray[np.int64]) -> Sketches:
        """The sketches with these (n,) indices; `text` still counts the texts of all."""
        sets, keys, n, text, is_own = self
        return Sketches(take(sets, rows), keys[rows], n[rows], text[rows], is_own[rows])


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

    def sketch(self, texts: Sequence[str]) -> Sketches:
        """The sketches of texts, in their order."""
        folded = fold(_column(texts))
        if self._simplified is not None:
            folded = Ragged(self._simplified.take(folded.values), folded.offsets)
        if self._config is None:
            hashes, n, text, is_own = self._by_length(characters(folded))
        else:
            hashes, text = shingles(folded, self._config), np.arange(len(texts))
            n, is_own = np.full(len(texts), self._config.n, np.uint32), np.ones(len(texts), bool)
        sets = _sets(hashes, folded, text)
        return Sketches(sets, self.keys(sets, n), n, text, is_own)

    def keys(self, sets: Ragged, n: NDArray[np.uint32]) -> NDArray[np.uint32]:
        """(sets, tables) uint32 keys of sets of shingles (uint32) of (sets,) uint32 `n` tokens."""
        values = Ragged(sets.values.astype(np.uint64) << _UPPER, sets.offsets)
        keys = np.empty((len(n), self._bands.n + 1), np.uint64)
        keys[:, 0] = hash_rows(sets)[0]
        keys[:, 1:] = band_keys(signatures(values, self._bands.n * self._bands.rows), self._bands).T
        keys += np.arange(keys.shape[1], dtype=np.uint64) * GOLDEN
        keys += n.astype(np.uint64)[:, None]
        return (mix(keys) >> _UPPER).astype(np.uint32)

    def _by_length(self, normal: Ragged) -> tuple[Ragged, NDArray[np.uint32], NDArray[np.int64], NDArray[np.bool_]]:
        """The shingles (uint64) of each sketch, and its `n`, `text` and `is_own`."""
        lengths = normal.lengths()
        short, long = (
            np.flatnonzero(lengths * self._threshold <= SHORT),
            np.flatnonzero(lengths > SHORT * self._threshold),
        )
        groups = [(rows, n) for rows, n in ((short, SHORT_N), (long, LONG_N)) if len(rows)]
        hashes = [ngrams(normal if len(rows) == len(lengths) else take(normal, rows), n) for rows, n in groups]
        text = np.concatenate([rows for rows, _ in groups])
        n = np.concatenate([np.full(len(rows), n, np.uint32) for rows, n in groups])
        is_own = (n == SHORT_N) == (lengths[text] <= SHORT)
        if len(groups) == 1:
            return hashes[0], n, text, is_own
        order = np.lexsort((~is_own, text))
        offsets = offsets_of(np.concatenate([part.lengths() for part in hashes]))
        joined = Ragged(np.concatenate([part.values for part in hashes]), offsets)
        return take(joined, order), n[order], text[order], is_own[order]


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


def _sets(hashes: Ragged, folded: Ragged, text: NDArray[np.int64]) -> Ragged:
    """The sets of shingles (uint32); that of a text without tokens is the hash of the folded text."""
    sets = distinct(Ragged(hashes.values & _HIGH_32, hashes.offsets))
    values = (sets.values >> np.uint64(SET_BITS - 32)).astype(np.uint32)
    empty = np.flatnonzero(sets.lengths() == 0)
    if not empty.size:
        return Ragged(values, sets.offsets)
    bare = take(folded, text[empty])
    bare = compress(bare, ~np.isin(bare.values, _SPACES))
    whole = (hash_rows(bare)[0] >> _UPPER).astype(np.uint32)
    return Ragged(np.insert(values, sets.offsets[empty], whole), offsets_of(np.maximum(sets.lengths(), 1)))
