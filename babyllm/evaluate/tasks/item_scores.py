"""From responses to numbers: what each item scores by each metric, between 0 and 1.

    acc_letter   the most probable letter of the options listed with letters
    acc          the most probable option
    acc_norm     the most probable option, its nats divided by its characters; acc_bytes by its UTF-8 bytes
    acc_pmi      the option whose nats fall most by the question: pointwise mutual information (Holtzman et al. 2021)
    acc_mean     of minimal pairs: nats divided by tokens; acc_slln by tokens to the power of the task's alpha

If k options are equally good, the right one among them counts 1 / k. acc, acc_norm and acc_bytes are those of
lm-evaluation-harness, acc_pmi is its acc_mutual_info.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from babyllm.errors import UserError
from babyllm.evaluate.statistics import Estimate, Verdict, mean_estimate, verdict
from babyllm.evaluate.tasks.items import Item
from babyllm.evaluate.tasks.prompts import Question, rotated
from babyllm.evaluate.tasks.responses import Response
from babyllm.evaluate.tasks.task import Task


class Scored(NamedTuple):
    """The scores of one item.

    Attributes:
        item: the item.
        scores: score by metric, 0 to 1.
        answered: answer of the model: its option by the task's best metric, or the generated text.
        nats: nats of the options by form of the question, such as "text"; empty for a generated answer.
    """

    item: Item
    scores: Mapping[str, float]
    answered: str
    nats: Mapping[str, Response]


class Result(NamedTuple):
    """The result of one metric of a task.

    Attributes:
        metric: name of the metric.
        estimate: mean over items, with its error over groups.
        chance: mean of a model that guesses; None if guessing has no level.
        verdict: comparison with chance in words; None without chance.
    """

    metric: str
    estimate: Estimate
    chance: float | None
    verdict: Verdict | None


def option_scores(task: Task, item: Item, questions: Sequence[Question], responses: Mapping[str, Response]) -> Scored:
    """The scores of an item with options.

    Args:
        task: task of the item.
        item: an item with options.
        questions: all readings of the item.
        responses: responses by key.
    """
    scores: dict[str, float] = {}
    choices: dict[str, int] = {}
    letters: list[float] = []
    by_form = {question.key.removeprefix(f"{item.id}|"): question for question in questions}

    def choose(metric: str, losses: ArrayLike) -> None:
        scores[metric], choices[metric] = _credit(losses, item.answer), int(np.argmin(losses))

    for form, question in by_form.items():
        if form.startswith("letter"):
            shift, n = int(form.rpartition("|")[2]), len(item.options)
            losses = rotated(responses[question.key], n - shift)  # those of the options in their own order
            letters.append(_credit(losses, item.answer))
            choices.setdefault("acc_letter", int(np.argmin(losses)))
    if letters:
        scores["acc_letter"] = float(np.mean(letters))
    text = by_form["text"]
    nats = np.array(responses[text.key])
    choose("acc", nats)
    if task.kind == "pairs" or task.target:
        n_tokens = np.array([len(option) for option in text.options], np.float64)
        choose("acc_mean", nats / n_tokens)
        choose("acc_slln", nats / n_tokens**task.alpha)
    else:
        choose("acc_norm", nats / [len(option) for option in item.options])
        choose("acc_bytes", nats / [len(option.encode()) for option in item.options])
        choose("acc_pmi", nats - np.array(responses[by_form["bare"].key]))
    answered = item.options[choices[best_metric(task, list(scores))]]
    return Scored(item, scores, answered, {form: responses[question.key] for form, question in by_form.items()})


def generated_scores(task: Task, item: Item, text: str) -> Scored:
    """The scores of a generated answer by the task's metrics.

    Raises:
        UserError: a metric is unknown or its package is missing.
    """
    from babyllm.evaluate.answer_metrics import METRICS

    if unknown := [name for name in task.metrics if name not in METRICS]:
        raise UserError(f"task {task.name}: there is no metric {unknown[0]}; choose among {', '.join(METRICS)}")
    return Scored(item, {name: METRICS[name](text, [item.reference]) for name in task.metrics}, text, {})


def best_metric(task: Task, metrics: Sequence[str]) -> str:
    """The metric that stands for a task: the one that it names, else the first."""
    return task.best if task.best in metrics else metrics[0]


def results(task: Task, found: Sequence[Scored]) -> list[Result]:
    """The results of a task by metric.

    Args:
        task: the task.
        found: scores of all items, at least one.
    """
    groups = [each.item.group for each in found]
    chance = None if task.kind == "generated" else float(np.mean([1 / len(each.item.options) for each in found]))
    made = []
    for metric in found[0].scores:
        estimate = mean_estimate([each.scores[metric] for each in found], groups)
        made.append(Result(metric, estimate, chance, None if chance is None else verdict(estimate, chance)))
    return made


def metric_names(task: Task) -> list[str]:
    """The names of a task's metrics, in the order of its results."""
    if task.kind == "generated":
        return task.metrics
    letters = ["acc_letter"] if task.has_letters else []
    rest = ["acc_mean", "acc_slln"] if task.kind == "pairs" or task.target else ["acc_norm", "acc_bytes", "acc_pmi"]
    return [*letters, "acc", *rest]


def by_group(found: Sequence[Scored], metric: str) -> dict[str, Estimate]:
    """The mean score by group, each with the usual standard error, sorted by name."""
    scores: dict[str, list[float]] = defaultdict(list)
    for each in found:
        scores[each.item.group].append(each.scores[metric])
    return {group: mean_estimate(values) for group, values in sorted(scores.items())}


def _credit(losses: ArrayLike, right: int) -> float:
    """1 if the right option has the least loss, 1 / k if k options have the same least loss, else 0."""
    values = np.asarray(losses, np.float64)
    best = np.flatnonzero(values == values.min())
    return float(right in best) / max(1, len(best))
