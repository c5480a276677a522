"""The settings of a tokenizer and of the sample it is trained on; imports no library that trains it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from babyllm.config.values import Count, Rate, Share, VocabularySize


@dataclass(frozen=True)
class VocabularyConfig:
    """The settings of a tokenizer and of the sample it is trained on.

    Attributes:
        vocab_size: number of tokens, special ones included.
        type: bpe or unigram by SentencePiece, or byte_bpe by tokenizers, on bytes as in Llama 3.
        character_coverage: share of the text's characters that become tokens; the rest is spelled in bytes. byte_bpe
            ignores it.
        special_tokens: names of special tokens, in addition to those that every tokenizer trained here has.
        symbols: texts that are always one token, such as "<think>"; unlike special tokens, they are found in text.
        hard_vocab_limit: whether text too small for vocab_size tokens is refused; false makes as many as it allows.
        weights: share of each domain in the sample. Domains without a weight are left out; one that is too small is
            repeated. null takes each domain by its size.
        sample_bytes: largest number of bytes of text to train on.
        held_out: share of the documents that is left out of the sample, the same as is left out of training.
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
