"""Divide chat files into parts that never share a prompt, such as for fine-tuning, preferences and a test."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from babyllm.chat.formats import PreferenceFormat
from babyllm.config.values import Share
from babyllm.pipeline.partitions import WorkConfig
from babyllm.pipeline.report import print_report

ARGUMENTS = "IN... OUT"


@dataclass(frozen=True)
class Flags:
    """Flags of `babyllm split`.

    Attributes:
        parts: share of each part by name, such as {sft: 0.75, preference: 0.25}; together 1. Records with the same
            first question are in the same part. A part named test is for the end: `babyllm eval` records each use.
        format: settings for reading records as conversations, preferences or prompts.
        work: number of processes and size of partitions.
    """

    parts: dict[str, Share] = field(default_factory=lambda: {"train": 0.9, "val": 0.05, "test": 0.05})
    format: PreferenceFormat = field(default_factory=PreferenceFormat)
    work: WorkConfig = field(default_factory=WorkConfig)


def run(flags: Flags, *arguments: str) -> None:
    """Divide the chat files IN into folders of OUT and print the report."""
    from babyllm.chat_corpus.split_chats import split_chats

    *inputs, out = map(Path, arguments)
    report = split_chats(inputs, out, flags.parts, flags.format, work=flags.work)
    if report is None:
        print(f"{out}: complete already, with these settings and inputs; nothing to do")
        return
    print_report(report)
