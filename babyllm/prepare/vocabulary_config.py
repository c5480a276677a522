"""What a tokenizer is to be like and what it is learned from; without the libraries that learn it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from babyllm.config.values import Count, Rate, Share, VocabularySize


@dataclass(frozen=True)
class VocabularyConfig:
    """What is learned, and from what.

    Attributes:
        vocab_size: number of tokens, special ones included.
        type: bpe or unigram by SentencePiece, or byte_bpe by tokenizers, on bytes as in Llama 3.
        character_coverage: share of the text's characters that become tokens; the rest is spelled in bytes. Means
            nothing to byte_bpe.
        special_tokens: names of special tokens beside the ones every tokenizer made here has.
        symbols: texts that are always one token, such as "<think>"; they stand for themselves, unlike special tokens.
        hard_vocab_limit: whether text that gives fewer tokens than vocab_size is refused; false takes what it gives.
        weights: share of each domain in the sample; domains left out give nothing, a domain too small is repeated.
            Null takes each domain by its size.
        sample_bytes: of text to learn from, at most.
        held_out: share of the documents that is kept out of the sample, as it is kept out of training.
    """

    vocab_size: VocabularySize = 8192
    type: Literal["bpe", "unigram", "byte_bpe"] = "bpe"
    character_coverage: Share = 0.9995
    special_tokens: list[str] = field(default_factory=list)
    symbols: list[str] = field(default_factory=list)
    hard_vocab_limit: bool = True
    weights: dict[str, Rate] | None = None
    sample_bytes: Count = 64 << 20
    held_out: Share = 0.02
