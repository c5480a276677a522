"""The report of a recipe: what became of every request and item, what it cost, and how varied the result is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from babyllm.chat.messages import ASSISTANT, USER, Conversation, Message
from babyllm.chat_corpus.diversity.diversity_report import report_of
from babyllm.chat_corpus.diversity.gather import diversity_of
from babyllm.pipeline.report import Cell, Fact, Report, Table
from babyllm.synthesis.sources.recipe_inputs import Found
from babyllm.synthesis.steps.run_steps import Making

_LEFT_OUT = ("Equal answers", "System messages", "First words of answers", "Frequent tokens", "Turns", "Tasks")
_STEPS = ("step", "in", "requests", "answered", "failed", "rejected", "out", "passed share")
_DIVERSITY = "Variety before near-duplicates were refused, and after"


def synthesis_report(
    making: Making, records: Sequence[Mapping[str, Any]], found: Found, is_priced: bool, facts: Sequence[Fact]
) -> Report:
    """The report of finished work; it depends on the replies alone, not on how many of them were stored before.

    Args:
        making: recipe after its work.
        records: records that were kept.
        found: items that it began with.
        is_priced: whether the cost is known.
        facts: facts to begin with.
    """
    counts = making.counts
    total = sum(one.cost for one in counts)
    of_records = sum(record["cost"] or 0 for record in records)
    more: list[Fact] = [*facts, ("inputs", len(found.items)), ("inputs that cannot be read", len(found.unread))]
    more += [("records", len(records)), ("rejected", len(making.rejections))]
    more += [("tokens read", sum(one.tokens_in for one in counts))]
    more += [("tokens written", sum(one.tokens_out for one in counts))]
    more += [("cost", round(total, 6) if is_priced else "unknown without price_in and price_out")]
    if is_priced and records:
        more += [("cost of the records alone", round(of_records, 6)), ("cost of a record", total / len(records))]
    rows: list[list[Cell]] = []
    for one in counts:
        n_rejected = sum(one.reasons.values())
        share = one.n_out / (one.n_out + n_rejected) if one.n_out + n_rejected else None
        cells = [one.n_in, one.n_requests, one.n_answered, one.n_failed, n_rejected, one.n_out, share]
        rows.append([one.name, *cells, *([round(one.cost, 6)] if is_priced else [])])
    tables = [Table("Steps", [*_STEPS, *(["cost"] if is_priced else [])], rows)]
    reasons: list[list[Cell]] = [
        [one.name, reason, n]
        for one in counts
        for reason, n in sorted(one.reasons.items(), key=lambda r: (-r[1], r[0]))
    ]
    reasons += [["inputs", reason, n] for reason, n in Counter(one.reason for one in found.unread).most_common()]
    tables += [Table("Rejections", ["step", "reason", "number"], reasons)] if reasons else []
    for name in ("task", "variant", "place", "model"):
        by = Counter(str(record[name]) for record in records if name in record)
        if len(by) > 1:
            tables.append(Table(f"Records by {name}", [name, "number"], [[key, n] for key, n in sorted(by.items())]))
    return Report(f"synth {making.recipe.name}", more, [*tables, *_variety(making)])


def _variety(making: Making) -> list[Table]:
    """How varied the texts of the step are that compared the most by the rule `new`: all, and those that were kept."""
    seen = max(making.seen.values(), key=len, default=[])
    kept = [text for text, is_kept in seen if is_kept]
    if not kept:
        return []
    before = diversity_of(_prompt(i, text) for i, (text, _) in enumerate(seen))
    after = diversity_of(_prompt(i, text) for i, text in enumerate(kept))
    tables = report_of(after, before, _DIVERSITY).tables
    return [
        Table(f"{_DIVERSITY}: {table.title}", table.columns, table.rows)
        for table in tables
        if not table.title.startswith(_LEFT_OUT)
    ]


def _prompt(number: int, text: str) -> Conversation:
    return Conversation((Message(USER, text), Message(ASSISTANT, "")), id=str(number))
