"""The two questions of a disappointing run: has it learned the training set, and does that help it elsewhere?

samples of both splits -> loss, greedy answers, accuracy of closed tasks -> by task and split -> what the numbers say
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from babyllm.errors import UserError
from babyllm.evaluate.answers import Answer, Sample, losses, turn_accuracy
from babyllm.generation import Sampling, answers
from babyllm.model.transformer import Transformer
from babyllm.runtime import Runtime
from babyllm.runtime.precision import reads_in
from babyllm.store.conversations import ALL
from babyllm.tokenizer import Tokenizer

# Greedy answers that are asked for at once; between two such groups a stop signal is looked for.
_TOGETHER = 64

# Rules of `reading`.
LEARNED_SCORE = 0.5
LEARNED_LOSS = 0.5
KEPT_SCORE = 0.75
LOSS_RATIO, LOSS_GAP = 1.25, 0.1


@dataclass(frozen=True)
class Greedy:
    """What a model answers when it takes the most probable token each time.

    Attributes:
        task: of the conversation.
        prompt: text up to the last answer; what special tokens stand for is not in it.
        expected: the last answer of the conversation.
        answered: the model's.
        has_ended: whether the model ended it, and not the limit.
    """

    task: str
    prompt: str
    expected: str
    answered: str
    has_ended: bool

    @property
    def is_exact(self) -> bool:
        """Whether the answer is the expected one and ends where it does; spaces around it do not count."""
        return self.has_ended and self.answered.strip() == self.expected.strip()


@dataclass(frozen=True)
class Measured:
    """How a model does on conversations of one task, or of all.

    Attributes:
        n: conversations.
        loss: nats per supervised token.
        exact: share of greedy answers that are the expected ones; None where none were asked for.
        accuracy: share of answers where the right candidate is the most probable; None unless all tasks are closed.
        chance: what guessing gives.
        n_answers: that the accuracy is the share of; a conversation may have several.
    """

    n: int
    loss: float
    exact: float | None = None
    accuracy: float | None = None
    chance: float | None = None
    n_answers: int | None = None

    @property
    def score(self) -> float:
        """From 0 for nothing learned to 1: the accuracy above chance of a closed task, else the exact answers."""
        if self.accuracy is None or self.chance is None:
            return self.exact or 0.0
        return max(0.0, (self.accuracy - self.chance) / (1 - self.chance))


def drawn(sizes: Mapping[str, int], n: int, seed: int) -> dict[str, list[int]]:
    """Which conversations of each task to look at: `n` in all if there are so many, as evenly over tasks as can be.

    Args:
        sizes: conversations of each task.
        n: how many to draw.
        seed: decides which; equal seeds give equal ones.
    """
    counts, rest = dict[str, int](), n
    for n_left, task in zip(range(len(sizes), 0, -1), sorted(sizes, key=lambda name: (sizes[name], name)), strict=True):
        counts[task] = min(sizes[task], rest // n_left)  # what a small task lacks is left to the larger ones
        rest -= counts[task]
    return {
        task: sorted(random.Random(f"{seed} {task}").sample(range(sizes[task]), count))
        for task, count in sorted(counts.items())
    }


def greedy_answers(
    model: Transformer,
    tokenizer: Tokenizer,
    samples: Sequence[Sample],
    end_ids: Collection[int],
    runtime: Runtime,
    *,
    max_new_tokens: int,
) -> list[Greedy]:
    """The model's own answer to the prompt of each conversation's last answer; a stop signal cuts the list short.

    Args:
        model: in any mode; it is read in evaluation mode.
        tokenizer: with the template's tokens.
        samples: with a supervised turn each.
        end_ids: that end an answer.
        runtime: device and type of numbers.
        max_new_tokens: of an answer; more where the expected one is longer.
    """
    context = model.config.max_seq_len
    results: list[Greedy] = []
    for begin in range(0, len(samples), _TOGETHER):
        if runtime.stop_requested:
            break
        group = samples[begin : begin + _TOGETHER]
        requests, right = [], []
        for sample in group:
            start, expected = sample.answers()[-1]
            if not start:  # something must be read before anything can be answered
                start, expected = 1, expected[1:]
            prompt = sample.ids[:start].tolist()[-max(1, context - len(expected)) :]
            limit = max(max_new_tokens, len(expected))
            requests.append((prompt, Sampling(max_new_tokens=limit, temperature=0)))
            right.append(expected)
        with reads_in(runtime.device, runtime.reading_dtype):
            found = answers(model, tokenizer, requests, end_ids)
        for sample, (prompt, _), expected, answer in zip(group, requests, right, found, strict=True):
            ids = [token.id for token in answer.tokens]
            asked, wanted, given = (tokenizer.decode(part) for part in (prompt, expected, ids))
            results.append(Greedy(sample.task, asked, wanted, given, answer.finish == "stop"))
    return results


def measure(
    model: Transformer,
    samples: Sequence[Sample],
    candidates: Mapping[str, Sequence[Answer]],
    runtime: Runtime,
    *,
    greedy: Sequence[Greedy] = (),
    batch_tokens: int = 8192,
) -> dict[str, Measured]:
    """Loss and, of closed tasks, accuracy by task and of "all"; every rank must call it.

    Args:
        model: switched to evaluation and back.
        samples: the same on every rank.
        candidates: the possible answers of closed tasks.
        runtime: device and ranks; ranks share the work.
        greedy: answers to the samples, if there are any.
        batch_tokens: tokens, padding included, per forward pass.

    Raises:
        UserError: a task is named as the total is.
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
        results[task] = Measured(
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
    results[ALL] = Measured(
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


def score(measured: Mapping[str, Measured]) -> float:
    """The mean score of all conversations, each task by its own rule."""
    tasks = [m for task, m in measured.items() if task != ALL]
    return sum(m.score * m.n for m in tasks) / sum(m.n for m in tasks)


def reading(train: Mapping[str, Measured], held_out: Mapping[str, Measured]) -> str:
    """One line that says what the numbers of both splits mean and what to do.

    The training set is learned where the mean score (see `Measured.score`) or the loss says so. What is learned carries
    over where the held-out score is near the training score, or, with no score to speak of, where the loss is.
    """
    here, there = score(train), score(held_out)
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


def table(train: Mapping[str, Measured], held_out: Mapping[str, Measured]) -> dict[str, Any]:
    """Both splits side by side, as a table of a report."""
    columns = {
        "n": "conversations",
        "loss": "loss",
        "exact": "exact",
        "accuracy": "accuracy",
        "n_answers": "of answers",
    }
    tasks = [*sorted((train.keys() | held_out.keys()) - {ALL}), ALL]
    return {
        "title": "training and held-out conversations; loss in nats per supervised token, the others as shares",
        "columns": [
            "task",
            *(f"{side} {name}" for side in ("train", "held-out") for name in columns.values()),
            "chance",
        ],
        "rows": [
            [task, *(getattr(side.get(task), name, None) for side in (train, held_out) for name in columns), chance]
            for task in tasks
            for chance in [next((side[task].chance for side in (train, held_out) if task in side), None)]
        ],
    }
