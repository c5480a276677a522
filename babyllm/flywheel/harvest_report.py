"""The report of a harvest: what became of the answers and why, labels, and what was replaced, never its contents."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from babyllm.flywheel.labels.labelling import label_tables
from babyllm.pipeline.report import Cell, Fact, Report, Table


class Counts(Protocol):
    """What a harvest counts (`babyllm.flywheel.harvest.Tallies`)."""

    verdicts: Counter[tuple[str, str]]
    labels: Counter[tuple[str, str]]
    personal: Counter[str]
    written: Counter[str]
    repeated: Counter[str]
    questions: Counter[str]


def harvest_report(directory: Path, read: Mapping[str, int], counts: Counts, spent: Sequence[Fact]) -> Report:
    """The report.

    Args:
        directory: log of sessions.
        read: numbers of what was read of it.
        counts: what was counted.
        spent: facts of the judge's requests.
    """
    facts: list[Fact] = [("sessions of", str(directory)), *sorted(read.items()), *spent]
    facts += [(f"answers not used: {reason}", n) for reason, n in counts.questions.most_common()]
    files = list(dict.fromkeys([*counts.written, *counts.repeated]))
    written: list[list[Cell]] = [[name, counts.written[name], counts.repeated[name]] for name in files]
    total = max(1, counts.verdicts.total())
    verdicts: list[list[Cell]] = [[*key, n, n / total] for key, n in counts.verdicts.most_common()]
    tables = [
        Table("records", ["file", "records", "near-duplicates left out"], written),
        Table("answers", ["verdict", "reason", "answers", "share"], verdicts),
        Table(
            "personal data replaced", ["kind", "replacements"], [list(one) for one in sorted(counts.personal.items())]
        ),
    ]
    tables += label_tables(counts.labels, counts.verdicts.total(), "answers")
    return Report("harvest", facts, [table for table in tables if table.rows])
