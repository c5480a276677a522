"""Choose conversations by scores, distances or chance, and write those that are kept in the form they came in."""

from __future__ import annotations

from pathlib import Path

from babyllm.pipeline.report import print_report
from babyllm.selection.select_config import SelectConfig

ARGUMENTS = "IN... OUT"
Flags = SelectConfig


def run(flags: SelectConfig, *arguments: str) -> None:
    """Score the chat files IN, write what a rule keeps into OUT, and print the report.

    Raises:
        UserError: a file or flag is at fault; the message names it.
    """
    from babyllm.commands import read_as_chosen
    from babyllm.runtime import start
    from babyllm.selection.build_scorer import build_scorer
    from babyllm.selection.select_chats import select_chats

    *inputs, out = map(Path, arguments)
    with start(flags.runtime) as runtime, read_as_chosen(runtime):
        scorer, models = build_scorer(flags, runtime)
        report = select_chats(inputs, out, flags, scorer, models)
    if report is None:
        print(f"{out}: complete already, with these settings and inputs; nothing to do")
        return
    print_report(report)
    print(f"\n{out / 'report.html'} shows this with plots; {out / 'scores.parquet'} has all scores")
