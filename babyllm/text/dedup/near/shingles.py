"""Texts as sets of shingles: the n-grams of their characters, words or jieba tokens, each a 64-bit hash.

    folded texts -> tokens -> n-grams -> hashes -> distinct: the set whose Jaccard similarity is taken

A text with fewer than n tokens is one shingle; a text without tokens has no shingle. Words are single Chinese
characters, and runs of other letters and digits; punctuation and symbols separate them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from babyllm.config.values import Members
from babyllm.ragged import U64, Ragged, compress, hash_rows, mix, offsets_of
from babyllm.text.dedup.normal import DROPPED, SINGLE, WORD, characters, kinds
from babyllm.tokenizer.borders import load_jieba

_BASE = np.uint64(0xA24BAED4963EE407)
SET_BITS = 48  # bits of a hash that a set keeps; the other 16 hold the index of a set while many are sorted together


@dataclass(frozen=True)
class ShingleConfig:
    """The shingles that two texts are compared by.

    Attributes:
        kind: tokens of a shingle: characters (of the normalised text), words (a Chinese character counts as one) or
            jieba tokens.
        n: number of tokens of a shingle.
    """

    kind: Literal["characters", "words", "jieba"] = "characters"
    n: Members = 5


def shingles(folded: Ragged, config: ShingleConfig) -> Ragged:
    """The hash (uint64) of every shingle of each folded text, in the order of the text and with repetitions.

    Raises:
        UserError: the kind is jieba, which is not installed.
    """
    if config.kind == "characters":
        return ngrams(characters(folded), config.n)
    return ngrams(words(folded) if config.kind == "words" else _jieba_tokens(folded), config.n)


def words(folded: Ragged) -> Ragged:
    """The hash (uint64) of each word of each folded text."""
    kind = kinds(folded.values)
    return _runs(folded, kind == WORD, kind == SINGLE)


def ngrams(tokens: Ragged, n: int) -> Ragged:
    """The hash (uint64) of every n successive tokens; a row with fewer tokens has one hash, an empty row has none."""
    lengths = tokens.lengths()
    short = np.flatnonzero((lengths > 0) & (lengths < n))
    values = tokens.values
    if short.size:
        missing = n - lengths[short]
        values = np.insert(values, np.repeat(tokens.offsets[short + 1], missing), 0)
        lengths = lengths.copy()
        lengths[short] = n
    ends = offsets_of(lengths)[1:][lengths > 0]
    if not len(values):
        return Ragged(np.empty(0, np.uint64), offsets_of(lengths))
    n_starts = len(values) - n + 1
    hashes = values[:n_starts].astype(np.uint64)
    for i in range(1, n):
        hashes *= _BASE
        hashes += values[i : i + n_starts]
    within = np.ones(len(values), bool)  # whether a shingle that begins here ends in the same text
    for i in range(1, n):
        within[ends - i] = False
    return Ragged(mix(hashes[within[:n_starts]]), offsets_of(np.maximum(lengths - n + 1, 0)))


def distinct(hashes: Ragged) -> Ragged:
    """The set of each row: its distinct hashes (uint64), cut to SET_BITS bits, sorted."""
    return counted(hashes)[0]


def counted(hashes: Ragged) -> tuple[Ragged, NDArray[np.int64]]:
    """The set of each row, and (values,) int64 number of times that each value occurs in its row."""
    rows_at_once = 1 << (64 - SET_BITS)
    sets, counts, lengths = [np.empty(0, np.uint64)], [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for first in range(0, len(hashes.offsets) - 1, rows_at_once):
        offsets = hashes.offsets[first : first + rows_at_once + 1]
        values = np.repeat(np.arange(len(offsets) - 1, dtype=np.uint64) << np.uint64(SET_BITS), np.diff(offsets))
        values |= hashes.values[offsets[0] : offsets[-1]] >> np.uint64(64 - SET_BITS)
        values.sort()
        fresh = np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1]]) if len(values) else values)
        counts.append(np.diff(np.append(fresh, len(values))))
        values = values[fresh]
        lengths.append(np.bincount((values >> np.uint64(SET_BITS)).view(np.int64), minlength=len(offsets) - 1))
        sets.append(values & np.uint64((1 << SET_BITS) - 1))
    return Ragged(np.concatenate(sets), offsets_of(np.concatenate(lengths))), np.concatenate(counts)


def _runs(folded: Ragged, joins: NDArray[np.bool_], alone: NDArray[np.bool_]) -> Ragged:
    """The hash of each token: a longest run of code points where `joins` is true, or one where `alone` is."""
    starts = joins.copy()
    starts[1:] &= ~joins[:-1]
    first = folded.offsets[:-1][folded.lengths() > 0]
    starts[first] = joins[first]
    starts |= alone
    inside = joins | alone
    token_starts = np.flatnonzero(starts[inside])
    n_inside = int(np.count_nonzero(inside))
    points = folded.values[inside]
    hashes: U64 = hash_rows(Ragged(points, np.append(token_starts, n_inside)))[0]
    return Ragged(hashes, compress(Ragged(starts, folded.offsets), starts).offsets)


def _jieba_tokens(folded: Ragged) -> Ragged:
    jieba = load_jieba("--shingles.kind=jieba")
    rows = []
    for start, stop in zip(folded.offsets[:-1], folded.offsets[1:], strict=True):
        text = folded.values[start:stop].tobytes().decode("utf-32-le")
        rows.append(np.frombuffer("\0".join(jieba.cut(text)).encode("utf-32-le"), "<u4"))
    values = np.concatenate([*rows, np.empty(0, np.uint32)])
    joins = kinds(values) != DROPPED  # the zeros between tokens are dropped, too
    return _runs(Ragged(values, offsets_of(np.array([len(row) for row in rows]))), joins, np.zeros_like(joins))
