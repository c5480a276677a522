"""The settings of a tokenizer and of the sample it is trained on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from babyllm.config.values import Count, Rate, Share, VocabularySize
from babyllm.tokenizer import SpecialTokens


@dataclass(frozen=True)
class VocabularyConfig:
    """The settings of a tokenizer and of the sample it is trained on.

    Attributes:
        vocab_size: number of tokens, special ones included.
        type: bpe, unigram or char (single characters) by SentencePiece; byte_bpe, on bytes as in Llama 3, or wordpiece,
            which loses whitespace, by tokenizers.
        character_coverage: share of the text's characters that become tokens, from 0.98 to 1; the rest is spelled in
            bytes, or unknown in wordpiece. byte_bpe ignores it.
        special_tokens: names of special tokens, in addition to those of special.first.
        special: names, order and roles of the special tokens.
        symbols: texts that are always one token, such as "<think>"; unlike special tokens, they are found in text.
        hard_vocab_limit: whether text too small for vocab_size tokens is refused; false makes as many as it allows.
        pre_split: jieba lets no token cross the Chinese words of jieba in the texts to train on; encoding needs no
            jieba. null for none.
        weights: share of each domain in the sample. Domains without a weight are left out; one that is too small is
            repeated. null takes each domain by its size.
        sample_bytes: largest number of bytes of text to train on.
        held_out: share of the documents that is left out of the sample, the same as is left out of training.
    """

    vocab_size: VocabularySize = 8192
    type: Literal["bpe", "unigram", "byte_bpe", "wordpiece", "char"] = "bpe"
    character_coverage: Share = 0.9995
    special_tokens: list[str] = field(default_factory=list)
    special: SpecialTokens = field(default_factory=SpecialTokens)
    symbols: list[str] = field(default_factory=list)
    hard_vocab_limit: bool = True
    pre_split: Literal["jieba"] | None = None
    weights: dict[str, Rate] | None = None
    sample_bytes: Count = 64 << 20
    held_out: Share = 0.02
