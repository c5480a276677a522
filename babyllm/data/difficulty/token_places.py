"""The parts of speech of tokens, and their places in a vocabulary that grows.

tokenizer -> part of speech of each token's text -> class of each id; special tokens have none
token data -> counts of ids -> (part of speech first) -> place of each id; special tokens have none
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from babyllm.data.difficulty.parts_of_speech import load_tagger
from babyllm.store.shards import TokenStream
from babyllm.tokenizer import Tokenizer

ALWAYS = -1
"""The place of a token that is always known."""
NO_CLASS = -1
"""The class of a token without a part of speech."""
READ_TOKENS = 1 << 22
# First letters of jieba's tags in CLIMB's order: nouns, verbs, adjectives with adverbs and other describing words,
# pronouns, determiners (which jieba tags as pronouns), adpositions, numerals with measure words, conjunctions,
# particles, punctuation. Other tags come last.
CLASSES = ("niljtsg", "v", "adbzf", "r", "p", "mq", "c", "uyeohk", "xw")
NAMES = ("noun", "verb", "adjective", "pronoun", "adposition", "numeral", "conjunction", "particle", "punctuation")
OTHER = "other"


def token_places(
    by: Literal["rank", "pos"], stream: TokenStream, tokenizer: Tokenizer, vocab_size: int
) -> NDArray[np.int64]:
    """The place of each id in the order in which tokens become known.

    Args:
        by: "rank", from the most frequent token to the rarest, or "pos", by the part of speech of the token's text
            first. Among equals the smaller id comes first.
        stream: training tokens, which are counted.
        tokenizer: tokenizer of the stream. Its special tokens and those of a single byte are always known.
        vocab_size: number V of ids.

    Returns:
        (V,) int64: 0, 1, 2, ... or `ALWAYS`.

    Raises:
        UserError: parts of speech are asked for, and jieba is not installed.
    """
    counts = np.zeros(vocab_size, np.int64)
    for first in range(0, len(stream), READ_TOKENS):
        counts += np.bincount(stream.read(first, first + READ_TOKENS), minlength=vocab_size)
    learned = _learned(tokenizer, vocab_size)
    is_tagged = by == "pos"
    classes = _classes(tokenizer, learned, "data.vocabulary.by=pos") if is_tagged else np.zeros(len(learned), np.int64)
    in_order = learned[np.lexsort((learned, -counts[learned], classes))]
    places = np.full(vocab_size, ALWAYS)
    places[in_order] = np.arange(len(in_order))
    return places


def token_classes(tokenizer: Tokenizer, vocab_size: int, flag: str) -> NDArray[np.int64]:
    """The part of speech of each token, by the first word of its text alone.

    Args:
        tokenizer: tokenizer of the ids.
        vocab_size: number V of ids.
        flag: flag that asks for it, for messages.

    Returns:
        (V,) int64, the index in `NAMES`, `len(NAMES)` for `OTHER` parts of speech; `NO_CLASS` for special tokens,
        single bytes and parts of a character.

    Raises:
        UserError: jieba is not installed.
    """
    ids = _learned(tokenizer, vocab_size)
    is_text = np.array(["\ufffd" not in tokenizer.decode([token]) for token in ids.tolist()], bool)
    classes = np.full(vocab_size, NO_CLASS)
    classes[ids[is_text]] = _classes(tokenizer, ids[is_text], flag)
    return classes


def _learned(tokenizer: Tokenizer, vocab_size: int) -> NDArray[np.int64]:
    """(n,) int64, the ids of tokens of several bytes, ascending; special tokens are not among them."""
    sizes = np.zeros(vocab_size, np.int64)
    sizes[: tokenizer.vocab_size] = tokenizer.byte_lengths()
    return np.flatnonzero(sizes > 1)


def _classes(tokenizer: Tokenizer, ids: NDArray[np.int64], flag: str) -> NDArray[np.int64]:
    """(n,) int64, the index in `CLASSES` of the part of speech of each token's text; `len(CLASSES)` for others."""
    tagger = load_tagger(flag)
    found = np.full(len(ids), len(CLASSES))
    for i, token in enumerate(ids.tolist()):
        words = tagger.lcut(tokenizer.decode([token]).strip(), HMM=False)
        tag = "n" if len(words) == 1 and words[0].flag == "eng" else words[0].flag if words else ""
        at = [number for number, letters in enumerate(CLASSES) if tag and tag[0] in letters]
        found[i] = at[0] if at else len(CLASSES)
    return found
