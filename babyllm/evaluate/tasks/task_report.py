"""The results of one model or several on tasks, as a report: tables, verdicts, paired differences, items that turned.

[ModelResults] -> tables and examples -> Evaluation (terminal, JSON, Markdown, HTML)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from babyllm.evaluate.report import Evaluation
from babyllm.evaluate.statistics import Estimate, mean_estimate, paired_difference
from babyllm.evaluate.tasks.evaluation import Evaluated
from babyllm.evaluate.tasks.item_scores import Result, Scored, by_group
from babyllm.evaluate.tasks.items import Item
from babyllm.evaluate.tasks.training_texts import Near, Overlap
from babyllm.pipeline.report import Cell, ExampleGroup, Fact, LabelledTexts, Report, Table

_TITLE = "results in per cent, ± standard errors over groups; * stands for its task"
Neighbours = Callable[[Sequence[Item]], list[list[Near]]]
"""Returns the training texts nearest to each item."""


class ModelResults(NamedTuple):
    """The results of one model.

    Attributes:
        name: name of the model in tables.
        key: name of the model in values.
        evaluated: evaluation of each task, in the same order for all models.
    """

    name: str
    key: str
    evaluated: Sequence[Evaluated]


def task_evaluation(
    models: Sequence[ModelResults],
    facts: Sequence[Fact],
    *,
    is_curve: bool = False,
    groups: bool = False,
    cases: int = 0,
    overlaps: Sequence[Overlap] = (),
    neighbours: Neighbours | None = None,
) -> Evaluation:
    """The evaluation of models on tasks.

    Args:
        models: results of each model; the others are compared with the first.
        facts: description of what was evaluated.
        is_curve: whether the models are steps of a run, which are shown one below the other.
        groups: whether to show the results of each group.
        cases: largest number of items that are shown of each kind.
        overlaps: items of each task that were found in a corpus; empty if none was given.
        neighbours: function that finds the training texts nearest to items; None shows none.
    """
    if is_curve:
        tables = [_curve(models), _falls(models)]
    elif len(models) > 1:
        tables = [_side_by_side(models), _differences(models)]
    else:
        tables = [_results_table(models[0].evaluated)]
    if overlaps:
        tables.append(_contamination(models, overlaps))
    if groups:
        tables += [_groups(models, number) for number in range(len(models[0].evaluated))]
    examples = _examples(_cases(models, cases), neighbours) if cases else None
    report = Report("Evaluation on tasks", [*facts, *_warnings(models)], tables, examples=examples)
    values = {model.key: {each.task.name: _values(each) for each in model.evaluated} for model in models}
    return Evaluation(report, values if len(models) > 1 else values[models[0].key])


def _warnings(models: Sequence[ModelResults]) -> list[Fact]:
    found: dict[str, Fact] = {}
    for each in (evaluated for model in models for evaluated in model.evaluated):
        if each.n_few:
            name = f"{each.task.name}: prompts with fewer than {each.task.shots} examples, for lack of room"
            found[name] = (name, each.n_few)
        if each.n_cut:
            name = f"{each.task.name}: prompts that lost their beginning, for lack of room"
            found[name] = (name, each.n_cut)
    return list(found.values())


def _results_table(evaluated: Sequence[Evaluated]) -> Table:
    rows: list[list[Cell]] = []
    for each in evaluated:
        for result in each.results:
            estimate = result.estimate
            low, high = estimate.share_interval if _scale(result) == 100 else estimate.interval
            interval = "" if math.isnan(low) else f"{low * _scale(result):.1f} to {high * _scale(result):.1f}"
            chance = None if result.chance is None else _cell(result, result.chance)
            name = result.metric + (" *" if result is each.best else "")
            cells: list[Cell] = [_shown(result, estimate), interval, chance, result.verdict]
            rows.append([each.task.name, name, *cells, estimate.n, estimate.n_clusters])
    columns = ["task", "metric", "result", "95 % interval", "chance", "verdict", "items", "groups"]
    return Table(_TITLE, columns, rows)


def _side_by_side(models: Sequence[ModelResults]) -> Table:
    columns = ["task", "metric", *(model.name for model in models), "chance"]
    rows: list[list[Cell]] = []
    for number, each in enumerate(models[0].evaluated):
        for index, result in enumerate(each.results):
            row: list[Cell] = [each.task.name, result.metric + (" *" if result is each.best else "")]
            row += [_shown(result, model.evaluated[number].results[index].estimate) for model in models]
            rows.append([*row, None if result.chance is None else _cell(result, result.chance)])
    return Table(_TITLE, columns, rows)


def _differences(models: Sequence[ModelResults]) -> Table:
    """The paired difference of each model from the first, by the metric that stands for each task."""
    rows: list[list[Cell]] = []
    first, *others = models
    for number, each in enumerate(first.evaluated):
        for other in others:
            metric = each.best.metric
            theirs = other.evaluated[number].scored
            difference, p = compared(each.scored, theirs, metric)
            better, worse = turned(each.scored, theirs, metric)
            words = "no difference shown" if not p < 0.05 else "better" if difference.value > 0 else "worse"
            cells: list[Cell] = [_shown(each.best, difference), _p(p), words]
            rows.append([each.task.name, metric, other.name, *cells, len(better), len(worse)])
    return Table(
        f"difference from {first.name} on the same items, in per cent",
        ["task", "metric", "model", "difference", "p", "at 5 %", "turned right", "turned wrong"],
        rows,
    )


def _curve(models: Sequence[ModelResults]) -> Table:
    """The results of each step by the metric that stands for each task."""
    columns = [f"{each.task.name} {each.best.metric}" for each in models[0].evaluated]
    bests = [(model.name, [each.best for each in model.evaluated]) for model in models]
    rows = [[name, *(_shown(best, best.estimate) for best in of_model)] for name, of_model in bests]
    return Table("results by step in per cent, ± standard errors over groups", ["step", *columns], rows)


def _falls(models: Sequence[ModelResults]) -> Table:
    """The highest step of each task beside the last one: what training beyond it has cost."""
    rows: list[list[Cell]] = []
    for number, last in enumerate(models[-1].evaluated):
        top = max(models, key=lambda model: model.evaluated[number].best.estimate.value)
        ours = top.evaluated[number]
        difference, p = compared(ours.scored, last.scored, ours.best.metric)
        name = "no fall shown" if not p < 0.05 else "falls" if difference.value < 0 else "rises"
        cells: list[Cell] = [_shown(ours.best, ours.best.estimate), models[-1].name, _shown(ours.best, difference)]
        rows.append([last.task.name, ours.best.metric, top.name, *cells, _p(p), name])
    return Table(
        "from the highest step to the last, on the same items; the highest of many steps is partly luck",
        ["task", "metric", "highest", "result", "last", "difference", "p", "at 5 %"],
        rows,
    )


def compared(ours: Sequence[Scored], theirs: Sequence[Scored], metric: str) -> tuple[Estimate, float]:
    """The mean of theirs - ours over the same items, with its error over groups, and the p-value of no difference."""
    groups = [each.item.group for each in ours]
    return paired_difference([each.scores[metric] for each in theirs], [each.scores[metric] for each in ours], groups)


def turned(
    ours: Sequence[Scored], theirs: Sequence[Scored], metric: str
) -> tuple[list[tuple[Scored, Scored]], list[tuple[Scored, Scored]]]:
    """The items on which theirs score more than ours, and those on which they score less."""
    pairs = list(zip(ours, theirs, strict=True))
    better = [(a, b) for a, b in pairs if b.scores[metric] > a.scores[metric]]
    return better, [(a, b) for a, b in pairs if b.scores[metric] < a.scores[metric]]


def _contamination(models: Sequence[ModelResults], overlaps: Sequence[Overlap]) -> Table:
    rows: list[list[Cell]] = []
    for number, each in enumerate(models[0].evaluated):
        found = overlaps[number]
        for model in models:
            theirs = model.evaluated[number]
            sides = []
            for is_in in (True, False):
                values = [s.scores[theirs.best.metric] for s in theirs.scored if (s.item.id in found.found) == is_in]
                sides.append(_cell(theirs.best, mean_estimate(values).value) if values else None)
            n = len(theirs.scored)
            rows.append([each.task.name, model.name, n, len(found.found), len(found.too_short), *sides])
    return Table(
        "items that share 13 words in a row with the corpus; result on these and on the others, in per cent",
        ["task", "model", "items", "in the corpus", "too short to say", "result on these", "on the others"],
        rows,
    )


def _groups(models: Sequence[ModelResults], number: int) -> Table:
    best = models[0].evaluated[number].best
    found = [by_group(model.evaluated[number].scored, best.metric) for model in models]
    columns = ["group", "items", *(model.name for model in models)]
    groups = found[0].items()
    rows: list[list[Cell]] = [
        [group, estimate.n, *(_shown(best, side[group]) for side in found)] for group, estimate in groups
    ]
    return Table(f"{models[0].evaluated[number].task.name}: {best.metric} by group, in per cent", columns, rows)


class _Cases(NamedTuple):
    """Items of one kind, each as the scores of two models, or of one twice."""

    title: str
    pairs: Sequence[tuple[Scored, Scored]]
    names: Sequence[str]


def _cases(models: Sequence[ModelResults], n: int) -> list[_Cases]:
    """Items that a model got wrong, or that turned from one model to another."""
    groups = []
    first = models[0]
    for number, each in enumerate(first.evaluated):
        metric = each.best.metric
        if len(models) == 1:
            wrong = [(scored, scored) for scored in each.scored if scored.scores[metric] < 1][:n]
            groups.append(_Cases(f"{each.task.name}: wrong by {metric}", wrong, [first.name]))
        for other in models[1:]:
            sides = turned(each.scored, other.evaluated[number].scored, metric)
            for side, word in zip(sides, ("right", "wrong"), strict=True):
                title = f"{each.task.name}: turned {word} by {metric}, from {first.name} to {other.name}"
                groups.append(_Cases(title, side[:n], [first.name, other.name]))
    return groups


def _examples(groups: Sequence[_Cases], neighbours: Neighbours | None) -> list[ExampleGroup]:
    items = [pair[0].item for group in groups for pair in group.pairs]
    near = iter(neighbours(items) if neighbours and items else [[] for _ in items])  # one reading of the corpus
    return [
        ExampleGroup(group.title, [_case(pair, group.names, next(near)) for pair in group.pairs]) for group in groups
    ]


def _case(pair: tuple[Scored, Scored], names: Sequence[str], near: Sequence[Near]) -> LabelledTexts:
    item = pair[0].item
    right = item.options[item.answer] if item.options else item.reference
    answered = [f"{name}: {each.answered}" for name, each in zip(names, pair, strict=False)]
    beside = [f"training text ({each.share:.0%} of its words in a row): {each.text}" for each in near]
    return LabelledTexts(f"{item.id} {item.question}".strip(), [f"right: {right}", *answered, *beside])


def _values(evaluated: Evaluated) -> dict[str, Any]:
    """The results of a task by metric, unrounded."""
    return {
        result.metric: {
            "value": result.estimate.value,
            "error": None if math.isnan(result.estimate.error) else result.estimate.error,
            "n": result.estimate.n,
            "groups": result.estimate.n_clusters,
            "chance": result.chance,
            "verdict": result.verdict,
        }
        for result in evaluated.results
    }


def _scale(result: Result) -> float:
    """What a value is multiplied by to be one of a hundred; BLEU and chrF are already."""
    return 1.0 if result.metric in ("bleu", "chrf") else 100.0


def _shown(result: Result, estimate: Estimate) -> str:
    value, error = estimate.value * _scale(result), estimate.error * _scale(result)
    return f"{value:.1f}" if math.isnan(error) else f"{value:.1f} ± {error:.1f}"


def _p(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 4)


def _cell(result: Result, value: float) -> float | None:
    return None if math.isnan(value) else round(value * _scale(result), 2)
