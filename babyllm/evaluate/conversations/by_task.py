"""Results of a model on conversations, by task and in total: loss, accuracy of closed tasks, exact greedy answers."""

from __future__ import annotations

from collections import defaultdict
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


@dataclass(frozen=True)
class TaskResult:
    """The results of a model on the conversations of one task, or of all tasks.

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
    """The results of each task and of "all"; empty without samples; every rank must call it.

    Args:
        model: model to evaluate; it is in evaluation mode meanwhile.
        samples: conversations, the same on every rank.
        candidates: possible answers of closed tasks.
        runtime: device and ranks; ranks share the work.
        greedy: greedy answers to the samples; may be empty.
        batch_tokens: tokens per forward pass, including padding.

    Raises:
        UserError: a task has the name of the total, "all".
    """
    if any(sample.task == ALL for sample in samples):
        raise UserError(f"a task of the conversations has the name {ALL!r}, as the total has; give it another")
    nats = losses(model, samples, runtime, batch_tokens=batch_tokens)
    accuracies = turn_accuracy(model, samples, candidates, runtime, batch_tokens=batch_tokens)
    exact: dict[str, list[bool]] = defaultdict(list)
    for answer in greedy:
        exact[answer.task].append(answer.is_exact)
    results = {}
    for task, (value, n_tokens) in nats.items():
        found = accuracies.get(task)
        results[task] = TaskResult(
            n=sum(sample.task == task for sample in samples),
            loss=value / n_tokens,
            exact=_mean(exact[task]),
            accuracy=found and found.correct / found.n,
            chance=found and 1 / len(candidates[task]),
            n_answers=found and found.n,
        )
    if not results:
        return {}
    is_closed = results.keys() <= accuracies.keys()
    n_asked = sum(found.n for found in accuracies.values())
    results[ALL] = TaskResult(
        n=len(samples),
        loss=sum(value for value, _ in nats.values()) / sum(n_tokens for _, n_tokens in nats.values()),
        exact=_mean([answer.is_exact for answer in greedy]),
        accuracy=sum(found.correct for found in accuracies.values()) / n_asked if is_closed else None,
        chance=sum(f.n / len(candidates[t]) for t, f in accuracies.items()) / n_asked if is_closed else None,
        n_answers=n_asked if is_closed else None,
    )
    return results


def _mean(values: Sequence[bool]) -> float | None:
    return sum(values) / len(values) if values else None
