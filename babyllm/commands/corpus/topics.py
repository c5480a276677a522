"""Find topics in corpora, and write the documents with their topics as domains."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from babyllm.selection.topics.topics_config import TopicsConfig

if TYPE_CHECKING:
    from babyllm.pipeline.report import Report

ARGUMENTS = "IN... OUT"


@dataclass(frozen=True)
class Flags(TopicsConfig):
    """Flags of `babyllm topics`."""


def run(flags: Flags, *arguments: str) -> None:
    """Give a topic to each document of the corpora IN, write them to OUT, and print the report.

    Raises:
        UserError: a corpus or flag is at fault; the message names it.
    """
    from babyllm.object_store.object_addresses import named
    from babyllm.object_store.stage_paths import stage_paths
    from babyllm.pipeline.report import print_report

    with stage_paths(arguments, flags.work.cache) as (inputs, out):
        report = _found(flags, inputs, out)
    place = named(arguments[-1])
    if report is None:
        print(f"{place}: complete already, with these settings and inputs; nothing to do")
        return
    print_report(replace(report, tables=report.tables[:1], examples=None))
    table = place / "topics.parquet"
    print(f"\n{place / 'report.html'} also shows texts and domains; {table} has the topic of each document")


def _found(flags: Flags, inputs: list[Path], out: Path) -> Report | None:
    from babyllm.selection.topics.topic_stage import find_topics

    if not flags.model:
        return find_topics(inputs, out, flags)
    from babyllm.commands import read_as_chosen
    from babyllm.files import json_digest
    from babyllm.loading import model_directory
    from babyllm.runtime import start
    from babyllm.selection.select_chats import model_identity
    from babyllm.selection.topics.model_vectors import load_vectors

    with start(flags.runtime) as runtime, read_as_chosen(runtime):
        embedding = load_vectors(flags.model, runtime)
        identity = json_digest(model_identity(model_directory(flags.model)))
        return find_topics(inputs, out, flags, embedding, identity)
