"""Write documents or conversations without exact and near duplicates, and without overlaps with evaluation sets."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal

from babyllm.chat.formats import FormatConfig
from babyllm.errors import UserError
from babyllm.object_store.object_addresses import named
from babyllm.object_store.stage_paths import stage_paths
from babyllm.pipeline.report import Report, print_report
from babyllm.store.chat_folders import is_chat_files
from babyllm.text.dedup.dedup_config import DedupConfig
from babyllm.text.dedup.stage import dedup

ARGUMENTS = "IN... OUT"


@dataclass(frozen=True)
class Flags(DedupConfig):
    """Flags of `babyllm dedup`.

    Attributes:
        kind: contents of IN: documents, in corpora; or conversations, in chat files that are written in the form they
            came in. With conversations, --against names chat files too.
        by: text by which conversations are compared: the question (the user's messages), the answer (the assistant's),
            or both.
        format: settings for reading records as conversations.
    """

    kind: Literal["documents", "conversations"] = "documents"
    by: Literal["question", "answer", "both"] = "both"
    format: FormatConfig = field(default_factory=FormatConfig)


def run(flags: Flags, *arguments: str) -> None:
    """Deduplicate IN into OUT and print the report."""
    with stage_paths(arguments, flags.work.cache) as (inputs, out):
        report = _unique(flags, inputs, out)
    place = named(arguments[-1])
    if report is None:
        print(f"{place}: is complete, there is nothing to do")
        return
    print_report(report)
    print(f"\n{place / 'report.html'}")


def _unique(flags: Flags, inputs: list[Path], out: Path) -> Report | None:
    config = DedupConfig(**{f.name: getattr(flags, f.name) for f in fields(DedupConfig)})
    if flags.kind == "documents":
        if chats := [path for path in inputs if path.is_file() or is_chat_files(path)]:
            raise UserError(f"{chats[0]}: is not a corpus; for files of conversations, add --kind=conversations")
        return dedup(inputs, out, config)
    for name in ("index", "takedowns"):
        if getattr(config, name):
            raise UserError(f"--{name}: is for documents; leave it out")
    from babyllm.chat_corpus.dedup_chats import dedup_chats

    return dedup_chats(inputs, out, config, flags.by, flags.format)
