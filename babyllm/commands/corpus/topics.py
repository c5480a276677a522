"""Find topics in corpora, and write the documents with their topics as domains."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from babyllm.selection.topics.topics_config import TopicsConfig

ARGUMENTS = "IN... OUT"


@dataclass(frozen=True)
class Flags(TopicsConfig):
    """Flags of `babyllm topics`."""


def run(flags: Flags, *arguments: str) -> None:
    """Give a topic to each document of the corpora IN, write them to OUT, and print the report.

    Raises:
        UserError: a corpus or flag is at fault; the message names it.
    """
    from babyllm.pipeline.report import print_report
    from babyllm.selection.topics.topic_stage import find_topics

    *inputs, out = map(Path, arguments)
    if flags.model:
        from babyllm.commands import read_as_chosen
        from babyllm.files import json_digest
        from babyllm.loading import model_directory
        from babyllm.runtime import start
        from babyllm.selection.select_chats import model_identity
        from babyllm.selection.topics.model_vectors import load_vectors

        with start(flags.runtime) as runtime, read_as_chosen(runtime):
            embedding = load_vectors(flags.model, runtime)
            identity = json_digest(model_identity(model_directory(flags.model)))
            report = find_topics(inputs, out, flags, embedding, identity)
    else:
        report = find_topics(inputs, out, flags)
    if report is None:
        print(f"{out}: complete already, with these settings and inputs; nothing to do")
        return
    print_report(replace(report, tables=report.tables[:1], examples=None))
    print(
        f"\n{out / 'report.html'} also shows texts and domains; {out / 'topics.parquet'} has the topic of each document"
    )
