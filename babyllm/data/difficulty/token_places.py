"""The places of tokens in a vocabulary that grows: by frequency, or by part of speech and then by frequency.

token data -> counts of ids -> (part of speech of each token's text) -> place of each id; special tokens have none
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
READ_TOKENS = 1 << 22
# First letters of jieba's tags in CLIMB's order: nouns, verbs, adjectives with adverbs and other describing words,
# pronouns, determiners (which jieba tags as pronouns), adpositions, numerals with measure words, conjunctions,
# particles, punctuation. Other tags come last.
CLASSES = ("niljtsg", "v", "adbzf", "r", "p", "mq", "c", "uyeohk", "xw")


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
    sizes = np.zeros(vocab_size, np.int64)
    sizes[: tokenizer.vocab_size] = tokenizer.byte_lengths()
    learned = np.flatnonzero(sizes > 1)
    classes = _classes(tokenizer, learned) if by == "pos" else np.zeros(len(learned), np.int64)
    in_order = learned[np.lexsort((learned, -counts[learned], classes))]
    places = np.full(vocab_size, ALWAYS)
    places[in_order] = np.arange(len(in_order))
    return places


def _classes(tokenizer: Tokenizer, ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """(n,) int64, the index in `CLASSES` of the part of speech of each token's text; `len(CLASSES)` for others."""
    tagger = load_tagger("data.vocabulary.by=pos")
    found = np.full(len(ids), len(CLASSES))
    for i, token in enumerate(ids.tolist()):
        words = tagger.lcut(tokenizer.decode([token]).strip(), HMM=False)
        tag = "n" if len(words) == 1 and words[0].flag == "eng" else words[0].flag if words else ""
        at = [number for number, letters in enumerate(CLASSES) if tag and tag[0] in letters]
        found[i] = at[0] if at else len(CLASSES)
    return found
