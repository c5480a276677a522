"""The report of a selection: what was read and kept, by task and file, and the scores of both."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from babyllm.files import fsync
from babyllm.pipeline.report import Bin, Cell, ExampleGroup, Fact, Histogram, LabelledTexts, Report, Table
from babyllm.selection.choosing import Choice
from babyllm.selection.score_tables import Candidates
from babyllm.selection.select_config import SelectConfig
from babyllm.store.parquet import parquet_writer

N_BINS = 40
QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


def selection_report(
    candidates: Candidates,
    choice: Choice,
    config: SelectConfig,
    names: Sequence[str],
    unreadable: Mapping[str, int],
    noun: str = "conversations",
) -> Report:
    """The report of a selection.

    Args:
        candidates: all conversations with their scores.
        choice: what is kept.
        config: rule and amounts.
        names: folders of the nested sets; one empty name for a single set.
        unreadable: number of records that are not conversations, by reason.
        noun: word for what is selected.
    """
    facts: list[Fact] = [(f"{noun} read", len(candidates))]
    for name, rows in zip(names, choice.kept, strict=True):
        facts.append((f"kept in {name}" if name else "kept", len(rows)))
    facts += [("bytes read", int(candidates.sizes.sum())), ("bytes kept", int(candidates.sizes[choice.kept[-1]].sum()))]
    facts.append(("rule", config.chosen_rule))
    if config.column and config.column in candidates.scores:
        facts.append(("ranked by", config.column))
    if choice.radius is not None:
        facts.append(("largest distance to a kept one", choice.radius))
    facts += [(f"rejected: {reason}", n) for reason, n in sorted(unreadable.items())]
    tables = [
        _groups(candidates, choice, "task" if noun == "conversations" else "domain", noun),
        _groups(candidates, choice, "file", noun),
        *_scores(candidates, choice),
    ]
    tables += _reasons(choice, noun)
    return Report(f"Selection of {noun}", facts, tables, _histograms(candidates, choice), _examples(candidates, config))


def _groups(candidates: Candidates, choice: Choice, by: str, noun: str) -> Table:
    names = candidates.files if by == "file" else candidates.tasks
    read, kept = Counter(names), Counter(names[row] for row in choice.kept[-1].tolist())
    total = sum(kept.values())
    rows: list[list[Cell]] = [
        [name, n, kept[name], n / len(names), kept[name] / max(1, total)] for name, n in sorted(read.items())
    ]
    return Table(f"{noun.capitalize()} by {by}", [by, "read", "kept", "read share", "kept share"], rows)


def _scores(candidates: Candidates, choice: Choice) -> list[Table]:
    rows: list[list[Cell]] = []
    for name, values in candidates.scores.items():
        for who, some in (("read", values), ("kept", values[choice.kept[-1]])):
            known = some[~np.isnan(some)]
            if len(known):
                rows.append([name, who, len(known), float(known.mean()), *np.quantile(known, QUANTILES).tolist()])
    columns = ["score", "of those", "with score", "mean", *(f"{q:.0%}" for q in QUANTILES)]
    return [Table("Scores", columns, rows)] if rows else []


def _reasons(choice: Choice, noun: str) -> list[Table]:
    counts = Counter(reason for reason in choice.why if reason)
    rows: list[list[Cell]] = [[reason, n] for reason, n in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]
    return [Table(f"Why {noun} were not kept", ["reason", noun], rows)] if rows else []


def _histograms(candidates: Candidates, choice: Choice) -> list[Histogram]:
    plots = []
    for name, values in candidates.scores.items():
        known = values[~np.isnan(values)]
        if not len(known) or known.min() == known.max():
            continue
        low, high = np.quantile(known, [0.005, 0.995]).tolist()
        edges = np.linspace(low, high, N_BINS + 1)
        if edges[0] == edges[-1]:
            continue
        series: dict[str, list[Bin]] = {}
        for who, some in (("read", values), ("kept", values[choice.kept[-1]])):
            counts = np.histogram(some[~np.isnan(some)], edges)[0].tolist()
            series[who] = [(float(a), float(b), n) for a, b, n in zip(edges[:-1], edges[1:], counts, strict=True)]
        plots.append(Histogram(f"Score {name}", unit=name, is_log=False, series=series))
    return plots


def _examples(candidates: Candidates, config: SelectConfig) -> list[ExampleGroup]:
    """The places of the conversations with the highest and the lowest score."""
    values = candidates.scores.get(str(config.column))
    if values is None:
        return []
    order = np.argsort(np.where(np.isnan(values), -np.inf, values), kind="stable")[::-1]
    order = order[~np.isnan(values[order])]
    chosen = [*order[:4].tolist(), *order[-4:].tolist()] if len(order) >= 8 else order.tolist()
    items = [LabelledTexts(f"{values[row]:.4g}", [candidates.places[row]]) for row in chosen]
    return [ExampleGroup(f"The highest and the lowest {config.column}", items)]


def write_scores(candidates: Candidates, choice: Choice, path: Path) -> None:
    """The scores of all conversations, with the rank of those that are kept, from 0, and why others are not."""
    rank = np.full(len(candidates), -1, np.int64)
    rank[choice.kept[-1]] = np.arange(len(choice.kept[-1]))
    columns: dict[str, Any] = {
        "key": candidates.keys,
        "place": candidates.places,
        "file": candidates.files,
        "task": candidates.tasks,
        "bytes": candidates.sizes,
        **candidates.scores,
        "missing": [reason or None for reason in candidates.reasons],
        "rank": pa.array(rank, mask=rank < 0),
        "why": [reason or None for reason in choice.why],
    }
    table = pa.table(columns)
    with parquet_writer(path, table.schema) as file:
        file.write_table(table, row_group_size=1 << 16)
    fsync(path)
