"""Texts as tokens that need no tokenizer: single Chinese characters, and words of other scripts.

    texts -> tokens_of -> Tokens: hashes and places in the folded text -> frequencies, pairs, scripts, topics

Texts are folded (NFKC, lower case); punctuation and symbols separate words and are not tokens.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from babyllm.ragged import GOLDEN, U64, Ragged, compress, hash_rows, mix, offsets_of
from babyllm.text.dedup.normal import SINGLE, WORD, fold, fold_text, kinds

CHINESE, LATIN, OTHER, NUMBER, NO_SCRIPT = "Chinese", "Latin", "other scripts", "numbers", "no letters"
SCRIPTS = (CHINESE, LATIN, OTHER, NUMBER)
TERM_LETTERS = 4  # letters of the shortest word that has a topic; shorter ones are mostly "the", "of" and the like
FIRST_WORDS, FIRST_CHARACTERS = 2, 4  # words and Chinese characters that a text begins with
_OPENING = 64  # characters in which these are looked for
_IDEOGRAPHS = "\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"
_FIRST = re.compile(f"[{_IDEOGRAPHS}]|[^\\W_{_IDEOGRAPHS}]+")
_RANGES = ((0x3007, 0x3008), (0x3400, 0x4DC0), (0x4E00, 0xA000), (0xF900, 0xFB00), (0x20000, 0x323B0))
_LATIN = ((0x41, 0x5B), (0x61, 0x7B), (0xAA, 0xAB), (0xBA, 0xBB), (0xC0, 0x250), (0x1E00, 0x1F00), (0x2C60, 0x2C80))


@dataclass(frozen=True)
class Tokens:
    """The tokens of some texts.

    Attributes:
        rows: uint64 hashes of the tokens, one row per text.
        points: (points,) uint32 code points of all letters and digits of the folded texts.
        starts: (tokens + 1,) int64, where each token begins in `points`, and where the last ends.
    """

    rows: Ragged
    points: NDArray[np.uint32]
    starts: NDArray[np.int64]

    def text(self, index: int) -> str:
        """A token as text."""
        return self.points[self.starts[index] : self.starts[index + 1]].tobytes().decode("utf-32-le")

    def scripts(self) -> NDArray[np.int64]:
        """(tokens,) int64 index in `SCRIPTS` of each token, by its first character."""
        first = self.points[self.starts[:-1]]
        found = np.full(len(first), SCRIPTS.index(OTHER))
        found[_within(first, _LATIN)] = SCRIPTS.index(LATIN)
        found[_within(first, _RANGES)] = SCRIPTS.index(CHINESE)
        found[(first >= ord("0")) & (first <= ord("9"))] = SCRIPTS.index(NUMBER)
        return found


def tokens_of(texts: Sequence[str]) -> Tokens:
    """The tokens of each text."""
    folded = fold(pa.array(texts, pa.large_string()))
    kind = kinds(folded.values)
    joins, alone = kind == WORD, kind == SINGLE
    begins = joins.copy()
    begins[1:] &= ~joins[:-1]
    first = folded.offsets[:-1][folded.lengths() > 0]
    begins[first] = joins[first]
    begins |= alone
    inside = joins | alone
    points = folded.values[inside]
    starts = np.append(np.flatnonzero(begins[inside]), len(points))
    offsets = compress(Ragged(begins, folded.offsets), begins).offsets
    return Tokens(Ragged(hash_rows(Ragged(points, starts))[0], offsets), points, starts)


def pairs_of(tokens: Ragged) -> Ragged:
    """The uint64 hash of every two adjacent tokens of each row, with repetitions."""
    values, last = tokens.values, np.zeros(len(tokens.values), bool)
    last[tokens.offsets[1:][tokens.lengths() > 0] - 1] = True
    followers = np.append(values[1:], np.zeros(min(1, len(values)), np.uint64))
    pairs = mix(values * GOLDEN + followers)
    return compress(Ragged(pairs, tokens.offsets), ~last)


def main_scripts(tokens: Tokens, owners: NDArray[np.int64], n: int) -> tuple[dict[str, int], dict[str, int]]:
    """The scripts of conversations, and of their tokens.

    A conversation's script is that of most of its tokens, numbers not counted; of equals the first in `SCRIPTS`.

    Args:
        tokens: tokens of the texts.
        owners: (texts,) int64 index of the conversation of each text.
        n: number of conversations.

    Returns:
        The number of conversations and the number of tokens, by script.
    """
    found = tokens.scripts()
    of_token = np.repeat(owners, tokens.rows.lengths())
    table = np.bincount(of_token * len(SCRIPTS) + found, minlength=n * len(SCRIPTS)).reshape(n, len(SCRIPTS))
    letters = table[:, : SCRIPTS.index(NUMBER)]
    main, has_letters = letters.argmax(1), letters.any(1)
    conversations = {name: int(((main == i) & has_letters).sum()) for i, name in enumerate(SCRIPTS[:-1])}
    conversations[NO_SCRIPT] = int((~has_letters).sum())
    return conversations, dict(zip(SCRIPTS, table.sum(0).tolist(), strict=True))


def shared_shares(tokens: Tokens, asked: NDArray[np.int64], before: Sequence[Sequence[int]]) -> NDArray[np.float64]:
    """The share of a question's terms that occur in what came before it.

    Terms are pairs of adjacent Chinese characters, and other words of at least `TERM_LETTERS` letters or digits. A text
    counts as its set of terms.

    Args:
        tokens: tokens of texts.
        asked: (n,) int64 indices of the texts that are questions.
        before: indices of the texts before each question.

    Returns:
        (n,) shares; NaN for a question without terms.
    """
    terms = _terms(tokens)
    numbers = np.arange(len(asked), dtype=np.int64)
    mine = _labelled(terms, asked, numbers)
    earlier = np.array([text for texts in before for text in texts], np.int64)
    theirs = _labelled(terms, earlier, np.repeat(numbers, [len(texts) for texts in before]))
    keys, labels = mine
    keys, first = np.unique(keys, return_index=True)
    labels = labels[first]
    n_terms = np.bincount(labels, minlength=len(asked))
    n_shared = np.bincount(labels[np.isin(keys, theirs[0])], minlength=len(asked))
    return np.where(n_terms > 0, n_shared / np.maximum(n_terms, 1), np.nan)


def opening(text: str) -> str:
    """What a text begins with: its first four tokens if the first is a Chinese character, else its first two words."""
    found = _FIRST.findall(fold_text(text.lstrip()[:_OPENING]))
    is_chinese = bool(found) and any(low <= ord(found[0][0]) < high for low, high in _RANGES)
    return "".join(found[:FIRST_CHARACTERS]) if is_chinese else " ".join(found[:FIRST_WORDS])


def _terms(tokens: Tokens) -> Ragged:
    """The terms of each text, with repetitions: its pairs of adjacent Chinese characters, and its long words."""
    values, offsets = tokens.rows
    scripts = tokens.scripts()
    is_chinese = scripts == SCRIPTS.index(CHINESE)
    is_long = ~is_chinese & (np.diff(tokens.starts) >= TERM_LETTERS)
    last = np.zeros(len(values), bool)
    last[offsets[1:][np.diff(offsets) > 0] - 1] = True
    is_pair = is_chinese & ~last
    is_pair[:-1] &= is_chinese[1:]
    followers = np.append(values[1:], np.zeros(min(1, len(values)), np.uint64))
    terms = np.where(is_pair, mix(values * GOLDEN + followers), values)
    return compress(Ragged(terms, offsets), is_pair | is_long)


def _labelled(terms: Ragged, texts: NDArray[np.int64], labels: NDArray[np.int64]) -> tuple[U64, NDArray[np.int64]]:
    """The terms of some texts, scrambled with the label of each text, and the labels."""
    lengths = terms.lengths()[texts]
    offsets = offsets_of(lengths)
    places = np.arange(offsets[-1]) + np.repeat(terms.offsets[:-1][texts] - offsets[:-1], lengths)
    of_term = np.repeat(labels, lengths)
    return mix(terms.values[places] + (of_term + 1).astype(np.uint64) * GOLDEN), of_term


def _within(points: NDArray[np.uint32], ranges: Sequence[tuple[int, int]]) -> NDArray[np.bool_]:
    found = np.zeros(len(points), bool)
    for low, high in ranges:
        found |= (points >= low) & (points < high)
    return found
