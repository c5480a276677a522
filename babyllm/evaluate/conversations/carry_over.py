"""Two questions about a disappointing run: has it learned the training set, and does that carry over to other data?

results of both splits by task -> one line of diagnosis, and a table of both
"""

from __future__ import annotations

from collections.abc import Mapping

from babyllm.evaluate.conversations.by_task import TaskResult
from babyllm.pipeline.report import Table
from babyllm.store.conversations import ALL
from babyllm.store.task_groups import groups_of

# Thresholds of `diagnosis`.
LEARNED_SCORE = 0.5
LEARNED_LOSS = 0.5
KEPT_SCORE = 0.75
LOSS_RATIO, LOSS_GAP = 1.25, 0.1


def mean_score(results: Mapping[str, TaskResult]) -> float:
    """The mean of the tasks' scores (`TaskResult.score`), weighted by their numbers of conversations."""
    totals = {*groups_of(results), ALL}
    tasks = [result for task, result in results.items() if task not in totals]
    return sum(result.score * result.n for result in tasks) / sum(result.n for result in tasks)


def diagnosis(train: Mapping[str, TaskResult], held_out: Mapping[str, TaskResult]) -> str:
    """One line that says what the results of both splits mean and what to do.

    The training set counts as learned if the mean score (see `TaskResult.score`) is high or the loss is low. Learning
    carries over if the held-out score is near the training score or, with low scores, if the two losses are near each
    other.
    """
    here, there = mean_score(train), mean_score(held_out)
    loss, other = train[ALL].loss, held_out[ALL].loss
    numbers = f"score {here:.2f} and {there:.2f}, loss {loss:.3g} and {other:.3g} on training and held-out"
    has_gap = other > LOSS_RATIO * loss + LOSS_GAP
    if here < LEARNED_SCORE and loss > LEARNED_LOSS:
        if has_gap:
            return (
                f"has learned little, and that only of the training set ({numbers}): more data, closer to what is "
                "asked; a larger or better pretrained model"
            )
        return (
            f"has not learned the training set ({numbers}): more steps, a higher learning rate or a larger model; "
            "where many answers are right, look at the examples first"
        )
    if there < KEPT_SCORE * here or (here < LEARNED_SCORE and has_gap):
        return (
            f"fits the training set but not the held-out one ({numbers}): more or more varied data, fewer epochs, a "
            "lower learning rate, or LoRA"
        )
    return f"has learned the training set, and it carries over ({numbers})"


def side_by_side(train: Mapping[str, TaskResult], held_out: Mapping[str, TaskResult]) -> Table:
    """A table of the results of both splits, by task."""
    columns = {
        "n": "conversations",
        "loss": "loss",
        "exact": "exact",
        "accuracy": "accuracy",
        "n_answers": "of answers",
    }
    tasks = [*sorted((train.keys() | held_out.keys()) - {ALL}), ALL]
    rows = []
    for task in tasks:
        chance = next((side[task].chance for side in (train, held_out) if task in side), None)
        cells = (getattr(side.get(task), name, None) for side in (train, held_out) for name in columns)
        rows.append([task, *cells, chance])
    return Table(
        "training and held-out conversations; loss in nats per supervised token, the others as shares",
        ["task", *(f"{side} {name}" for side in ("train", "held-out") for name in columns.values()), "chance"],
        rows,
    )
