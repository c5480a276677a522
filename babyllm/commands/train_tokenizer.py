"""Learn a tokenizer from a sample of corpora or files, and compare it with others by domain."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from babyllm.text.partitions import WorkConfig
from babyllm.text.readers import ReadConfig

ARGUMENTS = "IN... OUT"


@dataclass(frozen=True)
class Flags:
    """Flags of `babyllm train-tokenizer`.

    Attributes:
        vocab_size: number of tokens, special ones included.
        type: bpe or unigram by SentencePiece, or byte_bpe by tokenizers, on bytes as in Llama 3.
        character_coverage: share of the text's characters that become tokens; the rest is spelled in bytes. Means
            nothing to byte_bpe.
        special_tokens: names of special tokens beside the ones every tokenizer made here has.
        weights: share of each domain in the sample; a domain that is not named gives nothing, one that is too small is
            repeated. Null takes each domain by its size.
        sample_bytes: of text to learn from, at most.
        held_out: share of the documents that is kept out of the sample, as it is kept out of training.
        compare: tokenizers (directories or files) to show beside the new one.
        read: how files that are no corpora are read.
        work: how the machine is used.
    """

    vocab_size: int = 8192
    type: Literal["bpe", "unigram", "byte_bpe"] = "bpe"
    character_coverage: float = 0.9995
    special_tokens: list[str] = field(default_factory=list)
    weights: dict[str, float] | None = None
    sample_bytes: int = 64 << 20
    held_out: float = 0.02
    compare: list[str] = field(default_factory=list)
    read: ReadConfig = field(default_factory=ReadConfig)
    work: WorkConfig = field(default_factory=WorkConfig)


def run(flags: Flags, *arguments: str) -> None:
    """Learn a tokenizer from the inputs into the directory named last, and print how it does."""
    from dataclasses import fields
    from pathlib import Path

    from babyllm.data.compression import load_by_name
    from babyllm.data.vocabulary import VocabularyConfig, learn_vocabulary
    from babyllm.text.report import print_report

    *inputs, out = map(Path, arguments)
    config = VocabularyConfig(**{f.name: getattr(flags, f.name) for f in fields(VocabularyConfig)})
    report = learn_vocabulary(
        inputs, out, config, compare=load_by_name(flags.compare), read=flags.read, work=flags.work
    )
    if report is None:
        print(f"{out}: complete already, with these settings and inputs; nothing to do")
    else:
        print_report(report)
