"""Choose conversations or documents by scores, distances or chance, and write what is kept in the form it came in."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Literal

from babyllm.errors import UserError
from babyllm.object_store.object_addresses import named
from babyllm.object_store.stage_paths import stage_paths
from babyllm.pipeline.report import Report, Table, print_report
from babyllm.selection.select_config import SelectConfig

ARGUMENTS = "IN... OUT"


@dataclass(frozen=True)
class Flags(SelectConfig):
    """Flags of `babyllm select`.

    Attributes:
        kind: contents of IN: conversations, in chat files; or documents, in corpora.
    """

    kind: Literal["conversations", "documents"] = "conversations"


def run(flags: Flags, *arguments: str) -> None:
    """Score the files IN, write what a rule keeps into OUT, and print the report.

    Raises:
        UserError: a file or flag is at fault; the message names it.
    """
    with stage_paths(arguments, flags.work.cache) as (inputs, out):
        report = _selected(flags, inputs, out)
    place = named(arguments[-1])
    if report is None:
        print(f"{place}: complete already, with these settings and inputs; nothing to do")
        return
    print_report(replace(report, tables=[table for table in report.tables if _is_brief(table)]))
    print(f"\n{place / 'report.html'} also shows how varied they are; {place / 'scores.parquet'} has all scores")


def _is_brief(table: Table) -> bool:
    """Whether a table is short enough for a terminal; those on diversity are not, but for their warnings."""
    return table.title in ("Scores", "Warnings") or " by " in table.title or table.title.startswith("Why ")


def _selected(flags: Flags, inputs: list[Path], out: Path) -> Report | None:
    config = SelectConfig(**{f.name: getattr(flags, f.name) for f in fields(SelectConfig)})
    if flags.kind == "documents":
        from babyllm.selection.select_documents import select_documents

        return select_documents(inputs, out, config)
    if config.takedowns:
        raise UserError("--takedowns: is for documents; leave it out")
    from babyllm.commands import read_as_chosen
    from babyllm.runtime import start
    from babyllm.selection.build_scorer import build_scorer
    from babyllm.selection.select_chats import select_chats

    with start(config.runtime) as runtime, read_as_chosen(runtime):
        scorer, models = build_scorer(config, runtime)
        return select_chats(inputs, out, config, scorer, models)
