"""The report on a store of pairs or of answers: outcomes, and the lengths of the answers, on which bias is common.

A model of rewards can learn that longer is better. The share of pairs whose chosen answer is longer shows how much of
the data that alone would explain.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from babyllm.pipeline.report import Cell, Fact, Report, Table
from babyllm.prepare.conversations_report import facts_of, repetitions
from babyllm.prepare.rendered.data_record import data_table
from babyllm.prepare.rendered.rendered_store import Outcome
from babyllm.store.conversations import INDEX, RECORD, Group
from babyllm.store.pair_store import ANSWER, ANSWERS


def pairs_report(outcome: Outcome, chats: int) -> Report:
    """The report on a finished store.

    Args:
        outcome: what became of all records.
        chats: number of conversations of each pair, 2, or of each answer, 1.
    """
    kind = "pairs" if chats == 2 else "answers"
    read = sum(tally.conversations for tally in outcome.tallies.values())
    used = sum(group.conversations for group in outcome.groups) // chats
    tokens = sum(group.tokens for group in outcome.groups)
    facts: list[Fact] = [(f"{kind} read", read), (f"{kind} used", used), ("tokens", tokens)]
    facts += repetitions(outcome.tallies) + facts_of(outcome.result)
    supervised = np.fromfile(outcome.made / INDEX, RECORD)["supervised"].astype(np.int64)
    lengths = _pair_lengths(outcome, supervised) if chats == 2 else _answer_lengths(outcome, supervised)
    outcomes = Table(
        f"what became of the {kind}",
        ["split", "task", kind, "used", "skipped", "not drawn", "repeated"],
        [
            [*key, t.conversations, t.used, t.skipped, t.not_drawn, t.repeated]
            for key, t in sorted(outcome.tallies.items())
        ],
    )
    return Report(f"{kind}: {outcome.directory}", facts, [lengths, outcomes, *data_table(outcome.data)])


def _pair_lengths(outcome: Outcome, supervised: NDArray[np.int64]) -> Table:
    rows: list[list[Cell]] = []
    for group, (chosen, rejected) in _spans(outcome, supervised.reshape(-1, 2).T):
        means = [float(side.mean()) for side in (chosen, rejected)]
        medians = [float(np.median(side)) for side in (chosen, rejected)]
        is_longer = float((chosen > rejected).mean())
        rows.append([group.split, group.task, len(chosen), means[0], medians[0], means[1], medians[1], is_longer])
    columns = ["chosen mean", "chosen median", "rejected mean", "rejected median", "chosen longer, share"]
    return Table("answers, in tokens", ["split", "task", "pairs", *columns], rows)


def _answer_lengths(outcome: Outcome, supervised: NDArray[np.int64]) -> Table:
    rows: list[list[Cell]] = []
    desirable = np.fromfile(outcome.made / ANSWERS, ANSWER)["desirable"].astype(np.int64)
    for group, (is_good, lengths) in _spans(outcome, np.stack([desirable, supervised])):
        cells: list[Cell] = []
        for side in (lengths[is_good == 1], lengths[is_good == 0]):
            cells += [len(side), float(side.mean()) if len(side) else None]
        rows.append([group.split, group.task, len(lengths), *cells])
    columns = ["split", "task", "answers", "good", "mean length of good", "bad", "mean length of bad"]
    return Table("answers, in tokens", columns, rows)


def _spans(outcome: Outcome, columns: NDArray[np.int64]) -> list[tuple[Group, NDArray[np.int64]]]:
    """The columns (2, n) of each split and task; the groups lie one after the other."""
    ends = np.cumsum([group.conversations for group in outcome.groups])
    scale = int(ends[-1]) // columns.shape[1] if len(ends) else 1
    return list(zip(outcome.groups, np.split(columns, ends[:-1] // scale, axis=1), strict=True))
