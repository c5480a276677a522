"""Encode corpora or files into token shards by domain, with a held-out split, on all cores."""

from __future__ import annotations

from dataclasses import dataclass, field

from babyllm.config.values import Count, PathText, Share
from babyllm.pipeline.partitions import WorkConfig
from babyllm.text.readers import ReadConfig

ARGUMENTS = "IN... OUT"


@dataclass(frozen=True)
class Flags:
    """Flags of `babyllm tokenize`.

    Attributes:
        tokenizer: directory or file of the tokenizer.
        held_out: share of the documents in the split "val", chosen by a hash of each text.
        shard_tokens: number of tokens at which a shard is closed.
        read: settings for reading files other than corpora.
        work: number of processes and size of partitions.
    """

    tokenizer: PathText
    held_out: Share = 0.02
    shard_tokens: Count = 1 << 28
    read: ReadConfig = field(default_factory=ReadConfig)
    work: WorkConfig = field(default_factory=WorkConfig)


def run(flags: Flags, *arguments: str) -> None:
    """Encode the inputs into the directory named last, and print a report on it."""
    from pathlib import Path

    from babyllm.pipeline.report import print_report
    from babyllm.prepare.tokens import tokenize
    from babyllm.tokenizer import Tokenizer

    *inputs, out = map(Path, arguments)
    report = tokenize(
        inputs,
        Tokenizer.load(flags.tokenizer),
        out,
        held_out=flags.held_out,
        shard_tokens=flags.shard_tokens,
        read=flags.read,
        work=flags.work,
    )
    if report is None:
        print(f"{out}: complete already, with these settings and inputs; nothing to do")
    else:
        print_report(report)
