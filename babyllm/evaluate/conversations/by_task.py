"""Results of a model on conversations, by task and in total: loss, accuracy of closed tasks, exact greedy answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from babyllm.errors import UserError
from babyllm.evaluate.conversations.answers import losses, turn_accuracy
from babyllm.evaluate.conversations.greedy import GreedyAnswer
from babyllm.evaluate.conversations.samples import AnswerIds, Sample
from babyllm.evaluate.scoring import BATCH_TOKENS
from babyllm.model.transformer import Transformer
from babyllm.runtime import Runtime
from babyllm.store.conversations import ALL
from babyllm.store.task_groups import group_of, parts_of_results


@dataclass(frozen=True)
class TaskResult:
    """The results of a model on the conversations of one task, of a group of tasks, or of all tasks.

    Attributes:
        n: number of conversations.
        loss: nats per supervised token.
        exact: share of greedy answers that equal the expected ones; None without greedy answers.
        accuracy: share of answers whose right candidate is the most probable; None unless all tasks are closed.
        chance: accuracy of random guessing; None if the accuracy is None.
        n_answers: number of answers in the accuracy; a conversation may have several.
    """

    n: int
    loss: float
    exact: float | None = None
    accuracy: float | None = None
    chance: float | None = None
    n_answers: int | None = None

    @property
    def score(self) -> float:
        """From 0 (nothing learned) to 1: accuracy above chance of closed tasks, else the share of exact answers."""
        if self.accuracy is None or self.chance is None:
            return self.exact or 0.0
        return max(0.0, (self.accuracy - self.chance) / (1 - self.chance))


def measure(
    model: Transformer,
    samples: Sequence[Sample],
    candidates: Mapping[str, Sequence[AnswerIds]],
    runtime: Runtime,
    *,
    greedy: Sequence[GreedyAnswer] = (),
    batch_tokens: int = BATCH_TOKENS,
) -> dict[str, TaskResult]:
    """The results of each task, of each group of tasks and of "all"; empty without samples; every rank must call it.

    Of a group and of all tasks the loss is the mean over their tokens, and the accuracy that over their answers.

    Args:
        model: model to evaluate; it is in evaluation mode meanwhile.
        samples: conversations, the same on every rank.
        candidates: possible answers of closed tasks.
        runtime: device and ranks; ranks share the work.
        greedy: greedy answers to the samples; may be empty.
        batch_tokens: tokens per forward pass, including padding.

    Raises:
        UserError: a task or a group has the name of the total, "all".
    """
    if any(ALL in (sample.task, group_of(sample.task)) for sample in samples):
        raise UserError(f"a task or a group of tasks has the name '{ALL}', as the total has; give it another")
    nats = losses(model, samples, runtime, batch_tokens=batch_tokens)
    accuracies = turn_accuracy(model, samples, candidates, runtime, batch_tokens=batch_tokens)
    if not nats:
        return {}
    parts = parts_of_results(nats) | {ALL: list(nats)}

    def result_of(tasks: Sequence[str]) -> TaskResult:
        found = [accuracies[task] for task in tasks if task in accuracies]
        is_closed, n_asked = len(found) == len(tasks), sum(each.n for each in found)
        asked = [each.n / len(candidates[task]) for task, each in accuracies.items() if task in tasks]
        return TaskResult(
            n=sum(sample.task in tasks for sample in samples),
            loss=sum(nats[task][0] for task in tasks) / sum(nats[task][1] for task in tasks),
            exact=_mean([answer.is_exact for answer in greedy if answer.task in tasks]),
            accuracy=sum(each.correct for each in found) / n_asked if is_closed else None,
            chance=sum(asked) / n_asked if is_closed else None,
            n_answers=n_asked if is_closed else None,
        )

    return {name: result_of(tasks) for name, tasks in parts.items()}


def _mean(values: Sequence[bool]) -> float | None:
    return sum(values) / len(values) if values else None
