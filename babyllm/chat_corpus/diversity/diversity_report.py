"""The report on how varied conversations are: of one set, or of a set before and after a selection."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from babyllm.chat_corpus.diversity.facets import (
    SAMPLE_TITLE,
    STANDARD_ERROR,
    distances_of,
    estimates,
    lengths,
    scale_of,
    shares,
    sizes,
    spread,
    words,
)
from babyllm.chat_corpus.diversity.sameness import warnings_of
from babyllm.chat_corpus.diversity.tallies import HELD, Tally, TextTally
from babyllm.chat_corpus.diversity.terms import SCRIPTS
from babyllm.chat_corpus.diversity.totals import Diversity, Numbers
from babyllm.pipeline.report import Bin, Cell, Fact, Histogram, Report, Table
from babyllm.text.clean.report import EDGES

N_TOP, N_TASKS, N_TOKENS, N_TURNS = 10, 30, 30, 10  # rows of the tables
BEFORE, AFTER = "before", "after"

Sides = Sequence[Diversity]
"""One set, or the set before a selection and the set after it."""


def report_of(diversity: Diversity, before: Diversity | None = None, title: str = "diversity") -> Report:
    """The report on a set of conversations.

    Args:
        diversity: what is counted about the set.
        before: what is counted about the set that it was selected from; None for a report without a comparison. With
            it, distances, repetitions and numbers of different tokens are those of samples of one size, so that a
            set's size does not change them, and tokens have the tf-idf weights of the set before.
        title: first line of the report.
    """
    sides = [diversity] if before is None else [before, diversity]
    scale = scale_of(diversity, before)
    apart = [distances_of(side, scale) for side in sides]
    tables = [
        *_warnings([warnings_of(side, found) for side, found in zip(sides, apart, strict=True)]),
        *([] if before is None else [_facts("Sizes", [dict(sizes(side)) for side in sides])]),
        _facts(
            f"Shares{'' if before is None else ' (of repetitions: among as many drawn from each set)'}",
            [dict(shares(side, scale)) for side in sides],
            is_share=True,
        ),
        _facts("Lengths in characters, and turns", [dict(lengths(side)) for side in sides]),
        _facts(
            "Tokens: Chinese characters, and words of other scripts (quotients fall as a set grows, numbers among as "
            "many drawn do not)",
            [dict(words(side, scale)) for side in sides],
        ),
        _facts(SAMPLE_TITLE, [dict(spread(found)) for found in apart]),
        *_tasks(sides),
        _turns(sides),
        *_scripts(sides),
        *_tops(sides),
    ]
    rejected = [_rejected(sides)] if any(side.rejected for side in sides) else []
    facts: list[Fact] = list(sizes(diversity)) if before is None else []
    estimated = dict.fromkeys(text for side in sides for text in estimates(side))
    facts += [("different ones are estimated", ", ".join(estimated))] if estimated else []
    return Report(title, facts, [table for table in [*tables, *rejected] if table.rows], _histograms(sides))


def _warnings(found: Sequence[Sequence[str]]) -> list[Table]:
    """The warnings, for two sets with the set that has each."""
    if len(found) == 1:
        return [Table("Warnings", ["warning"], [[text] for text in found[0]])]
    rows: list[list[Cell]] = [
        [text, name] for name, texts in zip((BEFORE, AFTER), found, strict=True) for text in texts
    ]
    return [Table("Warnings", ["warning", "set"], rows)]


def _facts(title: str, found: Sequence[dict[str, Cell]], is_share: bool = False) -> Table:
    """Facts of one set, or of two with the change."""
    suffix = " share" if is_share else ""
    names = list(dict.fromkeys(name for facts in found for name in facts))
    if len(found) == 1:
        return Table(title, ["fact", "share" if is_share else "value"], [[name, found[0][name]] for name in names])
    pairs = [[facts.get(name) for facts in found] for name in names]
    changes = [
        None if name.startswith(STANDARD_ERROR) else _change(*pair) for name, pair in zip(names, pairs, strict=True)
    ]
    rows = [[name, *pair, change] for name, pair, change in zip(names, pairs, changes, strict=True)]
    return Table(title, ["fact", BEFORE + suffix, AFTER + suffix, f"change{' in share' if is_share else ''}"], rows)


def _change(before: Cell, after: Cell) -> Cell:
    numbers = [value for value in (before, after) if isinstance(value, (int, float))]
    return numbers[1] - numbers[0] if len(numbers) == 2 else None


def _counted(title: str, name: str, rows: Iterable[tuple[str, Sequence[int | None]]], totals: Sequence[int]) -> Table:
    """Things with their number and share in one set, or in two with the change of the share."""
    columns = [name, "number", "share"]
    if len(totals) == 2:
        columns = [name, BEFORE, f"{BEFORE} share", AFTER, f"{AFTER} share", "change in share"]
    cells = []
    for text, counts in rows:
        of_all = [None if n is None else n / max(1, total) for n, total in zip(counts, totals, strict=True)]
        pairs = [cell for pair in zip(counts, of_all, strict=True) for cell in pair]
        cells.append([text, *pairs, *([_change(*of_all)] if len(totals) == 2 else [])])
    return Table(title, columns, cells)


# ---- tables of what occurs how often


def _top(title: str, name: str, sides: Sides, of: Callable[[Diversity], TextTally], n: int, least: int = 1) -> Table:
    """The most frequent texts of each set, the most frequent first."""
    tallies = [of(side) for side in sides]
    found = {key: text for tally in tallies for key, text, _ in tally.top(n, least)}
    totals = [tally.total for tally in tallies]
    rows = []
    for key, text in found.items():
        counts = [_count(tally, key) for tally in tallies]
        largest = max((count or 0) / max(1, total) for count, total in zip(counts, totals, strict=True))
        rows.append((-largest, text, key, counts))
    return _counted(
        title, name, [(text, counts) for _, text, _, counts in sorted(rows, key=lambda r: r[:3])[:n]], totals
    )


def _count(tally: TextTally, key: int) -> int | None:
    if (count := tally.table.count(key)) is not None:
        return count
    place = int(np.searchsorted(tally.held, np.uint64(key)))
    is_held = place < len(tally.held) and int(tally.held[place]) == key
    return int(tally.weights[place]) if is_held else None


def _tops(sides: Sides) -> list[Table]:
    some = f"of those that are more than one in {HELD + 1:,}"
    return [
        _top("Equal prompts", "prompt", sides, lambda d: d.prompts, N_TOP, 2),
        _top("Equal answers", "answer", sides, lambda d: d.answers, N_TOP, 2),
        _top("System messages (share: of conversations with one)", "system message", sides, lambda d: d.systems, N_TOP),
        _top(f"First words of prompts ({some})", "begins with", sides, lambda d: d.prompt_openings, N_TOP, 2),
        _top(f"First words of answers ({some})", "begins with", sides, lambda d: d.answer_openings, N_TOP, 2),
        _top("Frequent tokens of prompts", "token", sides, lambda d: d.prompt_tokens, N_TOKENS),
        _top("Frequent tokens of answers", "token", sides, lambda d: d.answer_tokens, N_TOKENS),
    ]


def _tasks(sides: Sides) -> list[Table]:
    tables = [_top("Tasks", "task", sides, lambda d: d.tasks, N_TASKS)]
    if any(side.top_tasks.table.distinct < side.tasks.table.distinct for side in sides):
        tables.insert(0, _top("Tasks, summed up a level", "task", sides, lambda d: d.top_tasks, N_TASKS))
    return tables


def _turns(sides: Sides) -> Table:
    most = max((int(side.turns.keys[-1]) for side in sides if side.turns.total), default=0)
    rows = [(str(n), [side.turns.below(n + 1) - side.turns.below(n) for side in sides]) for n in range(most + 1)]
    rows, rest = rows[: N_TURNS + 1], [side.n - side.turns.below(N_TURNS + 1) for side in sides]
    rows += [(f"more than {N_TURNS}", rest)]
    return _counted("Turns", "turns", [row for row in rows if any(row[1])], [side.n for side in sides])


def _scripts(sides: Sides) -> list[Table]:
    names = dict.fromkeys(name for side in sides for name in side.scripts)
    rows = [(name, [side.scripts.get(name, 0) for side in sides]) for name in names]
    title = "Scripts of conversations (that of most of their tokens, numbers not counted)"
    conversations = _counted(title, "script", [row for row in rows if any(row[1])], [side.n for side in sides])
    rows = [(name, [side.script_tokens.get(name, 0) for side in sides]) for name in SCRIPTS]
    totals = [sum(side.script_tokens.values()) for side in sides]
    return [conversations, _counted("Scripts of tokens", "script", [row for row in rows if any(row[1])], totals)]


def _rejected(sides: Sides) -> Table:
    def read(numbers: Numbers, n: int) -> int:
        return n + sum(numbers.values())

    reasons = sorted({reason for side in sides for reason in side.rejected})
    rows = [(reason, [side.rejected.get(reason, 0) for side in sides]) for reason in reasons]
    return _counted("Rejected records", "reason", rows, [read(side.rejected, side.n) for side in sides])


# ---- histograms


def _histograms(sides: Sides) -> list[Histogram]:
    names = ["conversations"] if len(sides) == 1 else [BEFORE, AFTER]
    found: list[tuple[str, str, bool, Callable[[Diversity], list[Bin]]]] = [
        ("Length of prompts", "characters", True, lambda d: _bins(d.prompt_lengths)),
        ("Length of answers", "characters", True, lambda d: _bins(d.answer_lengths)),
        ("Turns", "turns", False, lambda d: [(k, k + 1, n) for k, n in _pairs(d.turns)]),
    ]
    return [
        Histogram(title, unit, is_log, {name: bins(side) for name, side in zip(names, sides, strict=True)})
        for title, unit, is_log, bins in found
    ]


def _pairs(tally: Tally) -> list[tuple[int, int]]:
    return list(zip(map(int, tally.keys), map(int, tally.counts), strict=True))


def _bins(lengths: Tally) -> list[Bin]:
    """The lengths in the bins of `babyllm.text.clean.report`, as numbers of texts."""
    index = np.searchsorted(np.array(EDGES), lengths.keys.astype(np.int64), side="right") - 1
    sums = np.bincount(index, lengths.counts)
    return [(EDGES[i], EDGES[i + 1], int(sums[i])) for i in np.flatnonzero(sums).tolist()]
