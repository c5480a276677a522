"""The new model against the old one: by a test, by what people rated, by a judge; and what follows from that.

files of predictions, in the same order -> scores of both -> paired difference with its 95 % interval -> verdict
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from babyllm.errors import UserError
from babyllm.evaluate.answer_metrics.matching import exact_normalised
from babyllm.evaluate.statistics import mean_estimate, paired_difference
from babyllm.judging.answer_files import FieldNames, matched, read_answers
from babyllm.judging.judge_prompts import judge_prompt
from babyllm.judging.pairs import Ask, compare
from babyllm.judging.win_rates import win_rate
from babyllm.pipeline.report import Cell, Table
from babyllm.prediction.answering import PREDICTION
from babyllm.prediction.questions import references

Outcome = Literal["new is better", "old is better", "not distinguished"]
AVOID = "avoid"


@dataclass(frozen=True)
class Compared:
    """Two models under one comparison.

    Attributes:
        name: name of the comparison.
        n: number of questions.
        old: score of the old model, a share; None where only the difference is known.
        new: score of the new model; for a judge, its win rate.
        difference: score of the new model less that of the old one; for a judge, the win rate less 0.5.
        low: lower end of the difference's 95 % interval.
        high: upper end of it.
    """

    name: str
    n: int
    old: float | None
    new: float
    difference: float
    low: float
    high: float

    @property
    def outcome(self) -> Outcome:
        """What the interval says."""
        if self.low > 0:
            return "new is better"
        return "old is better" if self.high < 0 else "not distinguished"

    def to_json(self) -> dict[str, Any]:
        """The comparison as a JSON value."""
        return {**vars(self), "outcome": self.outcome}


def by_test(old: Path, new: Path) -> Compared | None:
    """The accuracy of both on a test, by equal answers; None if no record has a right answer.

    Args:
        old: predictions of the old model, as `babyllm predict` writes them.
        new: predictions of the new model for the same records.
    """
    return _paired("test", [_is_right(record) for record in _records(old)], [_is_right(r) for r in _records(new)])


def by_ratings(old: Path, new: Path, answers: Sequence[str]) -> Compared | None:
    """How often answers to held-out questions are ones that people found good, not ones that they found bad.

    An answer that nobody rated counts only where the possible answers are known: then by the chance that it is right,
    which for two possible answers is 1 if the other one is bad. Both models are compared where both answers count. The
    good answers are mostly the old model's, so this comparison favours it, except where people corrected.

    Args:
        old: predictions of the old model for held-out questions of a harvest.
        new: predictions of the new model for the same ones.
        answers: possible answers; none if there are many.
    """
    sides = [[_rated(record, answers) for record in _records(file)] for file in (old, new)]
    return _paired("ratings of held-out sessions", *sides)


def by_judge(old: Path, new: Path, ask: Ask, language: Literal["en", "zh"]) -> Compared | None:
    """The win rate of the new model, by a judge who sees both answers in both orders.

    Args:
        old: predictions of the old model.
        new: predictions of the new model for the same records.
        ask: function that returns the judge's replies.
        language: language of the judge's prompt.
    """
    pairs = matched(read_answers(new, FieldNames()), read_answers(old, FieldNames()))
    found = [one for one in compare(pairs, judge_prompt("pair", language, None), 1, ask) if one.preference is not None]
    if not found:
        return None
    rate = win_rate([one.preference or 0.0 for one in found], [one.pair.prompt for one in found])
    return Compared("judge", len(found), None, rate.value, rate.value - 0.5, rate.low - 0.5, rate.high - 0.5)


def is_accepted(found: Sequence[Compared], rule: Literal["better", "not_worse"]) -> tuple[bool, str]:
    """Whether the new model replaces the old one, and why.

    Args:
        found: comparisons.
        rule: what is asked of the new model (`TurnConfig.verdict`).
    """
    if lost := [one.name for one in found if one.outcome == "old is better"]:
        return False, f"the old model is better by {' and '.join(lost)}"
    if won := [one.name for one in found if one.outcome == "new is better"]:
        return True, f"the new model is better by {' and '.join(won)}"
    if not found:
        return False, "there is nothing to compare by: give --test, --harvest.endpoint.url, or collect more ratings"
    return rule == "not_worse", "the models are not distinguished"


def comparison_table(found: Sequence[Compared]) -> Table:
    """The comparisons as a table."""
    rows: list[list[Cell]] = [
        [one.name, one.n, one.old, one.new, one.difference, one.low, one.high, one.outcome] for one in found
    ]
    columns = ["by", "questions", "old", "new or its win rate", "difference", "low", "high", "outcome"]
    return Table("the new model against the old one, with 95 % intervals", columns, rows)


def _paired(name: str, old: Sequence[float | None], new: Sequence[float | None]) -> Compared | None:
    both = [(a, b) for a, b in zip(old, new, strict=True) if a is not None and b is not None]
    if len(both) < 2:
        return None
    a, b = [pair[0] for pair in both], [pair[1] for pair in both]
    difference, _ = paired_difference(b, a)
    low, high = difference.interval
    return Compared(name, len(both), mean_estimate(a).value, mean_estimate(b).value, difference.value, low, high)


def _is_right(record: Mapping[str, Any]) -> float | None:
    right = references(record)
    return exact_normalised(str(record.get(PREDICTION, "")), right) if right else None


def _rated(record: Mapping[str, Any], answers: Sequence[str]) -> float | None:
    said, bad = str(record.get(PREDICTION, "")), [str(text) for text in record.get(AVOID) or ()]
    if (right := references(record)) and exact_normalised(said, right):
        return 1.0
    if bad and exact_normalised(said, bad):
        return 0.0
    left = [text for text in answers if not (bad and exact_normalised(text, bad))]
    if not answers or not (right or bad):
        return None
    if not exact_normalised(said, answers):
        return 0.0
    return 0.0 if right else 1.0 / max(1, len(left))


def _records(file: Path) -> list[dict[str, Any]]:
    try:
        # At line feeds alone: answers may hold other marks of a line's end, such as U+2028.
        return [json.loads(line) for line in file.read_text("utf-8").split("\n") if line.strip()]
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read as predictions ({error}); delete it, and it is made again") from None
