"""Evaluations as reports: the tables that `babyllm eval` prints, and the same numbers by name."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from babyllm.evaluate.conversations.by_task import TaskResult
from babyllm.evaluate.conversations.carry_over import diagnosis, side_by_side
from babyllm.evaluate.conversations.greedy import GreedyAnswer
from babyllm.pipeline.report import Cell, ExampleGroup, Fact, LabelledTexts, Report, Table
from babyllm.store.task_groups import groups_of, task_of_result

_LARGEST_EXPONENT = 700.0  # e ** 710 is infinite in float64


@dataclass(frozen=True)
class Evaluation:
    """The results of an evaluation.

    Attributes:
        report: tables to print.
        values: the same numbers by name, unrounded.
    """

    report: Report
    values: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """The evaluation as a JSON value: that of the report, with the unrounded values added."""
        return self.report.to_json() | {"values": self.values}


@dataclass(frozen=True)
class Examples:
    """How many greedy answers a report shows.

    Attributes:
        n: number of answers of each split.
        characters: largest number of characters of a text.
    """

    n: int
    characters: int


def text_evaluation(values: Mapping[str, float], facts: Sequence[Fact]) -> Evaluation:
    """The evaluation of held-out documents.

    Args:
        values: losses (nats per token) and bits per byte by domain, as `perplexity` returns them.
        facts: description of what was evaluated.
    """
    rows: list[list[Cell]] = []
    for name, loss in values.items():
        if name.endswith("/loss"):
            domain = name.removesuffix("/loss")
            rows.append([domain, loss, math.exp(min(loss, _LARGEST_EXPONENT)), values.get(f"{domain}/bpb")])
    columns = ["domain", "loss", "perplexity", "bits per byte"]
    table = Table("held-out documents; loss in nats per token", columns, rows)
    return Evaluation(Report("Evaluation on text", facts, [table]), values)


def conversation_evaluation(
    results: Mapping[str, TaskResult], majority: Mapping[str, float], facts: Sequence[Fact]
) -> Evaluation:
    """The evaluation of held-out conversations.

    Args:
        results: results by task.
        majority: accuracy of always giving the most frequent answer, by closed task.
        facts: description of what was evaluated.
    """
    groups = groups_of(results)
    most = {name: None if name in groups else majority.get(task_of_result(name)) for name in results}
    rows = [[name, r.n, r.loss, r.accuracy, r.n_answers, r.chance, most[name]] for name, r in results.items()]
    table = Table(
        "held-out conversations; loss in nats per supervised token, the others as shares",
        ["task", "conversations", "loss", "accuracy", "of answers", "chance", "most frequent answer"],
        rows,
    )
    return Evaluation(Report("Evaluation on conversations", facts, [table]), _values(results))


def carry_over_evaluation(
    results: Mapping[str, Mapping[str, TaskResult]],
    greedy: Mapping[str, Sequence[GreedyAnswer]],
    examples: Examples,
    facts: Sequence[Fact],
) -> Evaluation:
    """The evaluation of training and held-out conversations side by side.

    Args:
        results: results by task, of "training" and "held-out".
        greedy: greedy answers of the same two.
        examples: number and length of the answers that are shown.
        facts: description of what was evaluated.
    """
    train, held_out = results["training"], results["held-out"]
    ended = [
        (f"{side} answers the model ended", f"{sum(answer.has_ended for answer in mine)} of {len(mine)}")
        for side, mine in greedy.items()
    ]
    groups = [ExampleGroup(f"{side} conversations", _examples(mine, examples)) for side, mine in greedy.items()]
    all_facts = [*facts, *ended, ("reading", diagnosis(train, held_out))]
    report = Report("Fit to the training set", all_facts, [side_by_side(train, held_out)], examples=groups)
    return Evaluation(report, {side: _values(mine) for side, mine in results.items()})


def _examples(greedy: Sequence[GreedyAnswer], examples: Examples) -> list[LabelledTexts]:
    """Some answers, evenly spaced in the list so that they come from several tasks."""
    n = min(examples.n, len(greedy))
    chosen = [greedy[i * len(greedy) // n] for i in range(n)]
    return [
        LabelledTexts(
            f"{answer.task}: {'exact' if answer.is_exact else 'other' if answer.has_ended else 'not ended'}",
            [
                f"prompt    {_end(answer.prompt, examples.characters)!r}",
                f"expected  {_start(answer.expected, examples.characters)!r}",
                f"answered  {_start(answer.answered, examples.characters)!r}",
            ],
        )
        for answer in chosen
    ]


def _start(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[:length]}..."


def _end(text: str, length: int) -> str:
    return text if len(text) <= length else f"...{text[-length:]}"


def _values(results: Mapping[str, TaskResult]) -> dict[str, dict[str, float | None]]:
    return {task: asdict(result) for task, result in results.items()}
