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
        held_out: share of the documents that go to the "val" split, chosen by a hash of each text.
        shard_tokens: tokens at which a shard is closed.
        read: how files other than corpora are read.
        work: how the machine is used.
    """

    tokenizer: PathText
    held_out: Share = 0.02
    shard_tokens: Count = 1 << 28
    read: ReadConfig = field(default_factory=ReadConfig)
    work: WorkConfig = field(default_factory=WorkConfig)


def run(flags: Flags, *arguments: str) -> None:
    """Encode the inputs into the directory named last, and print what it holds."""
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
