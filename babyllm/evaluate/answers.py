"""Loss by task and accuracy on tasks with few possible answers, over conversations as ids.

conversations | store -> Sample(task, ids, turns) -> prompt + each candidate -> nats -> the most probable one is right?

A task is closed when its answers come from a small set, such as "positive" and "negative". There the model need not be
asked to write: of the candidates, each with its end token, the most probable one is what it says.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from babyllm.chat.load import ChatTemplate, Supervise, fit
from babyllm.chat.messages import Conversation, Unusable
from babyllm.evaluate.scoring import Row, row_nats
from babyllm.model.transformer import Transformer
from babyllm.runtime import Runtime
from babyllm.store.conversations import ConversationStore

MAX_CANDIDATES = 10
MIN_REPEATS = 2
MIN_CONVERSATIONS = 20
CLOSED_FROM = 2000  # conversations of a task that are looked at in a store

A = TypeVar("A", bound=Hashable)
Answer = tuple[int, ...]
"""The ids of an answer, its end token included."""


class Sample(NamedTuple):
    """A conversation as ids.

    Attributes:
        task: what kind of conversation it is.
        ids: (L,) int64.
        turns: (L,) the supervised turn each id belongs to, from 1; 0 for none.
    """

    task: str
    ids: NDArray[np.int64]
    turns: NDArray[np.int64]

    def answers(self) -> list[tuple[int, Answer]]:
        """Of each supervised turn, where it begins and its ids."""
        numbers = np.unique(self.turns[self.turns > 0])
        places = (np.flatnonzero(self.turns == number) for number in numbers)
        return [(int(at[0]), tuple(self.ids[at].tolist())) for at in places]


class Accuracy(NamedTuple):
    """How often the most probable candidate was the right one.

    Attributes:
        correct: of k candidates that are equally probable, the right one counts 1 / k.
        n: answers asked for.
    """

    correct: float
    n: int


def samples_of(
    template: ChatTemplate,
    conversations: Iterable[Conversation],
    max_seq_len: int,
    unused: Counter[str] | None = None,
) -> list[Sample]:
    """Conversations as ids, every assistant turn supervised unless its weight is 0.

    Of one that is longer than `max_seq_len`, the oldest turns are dropped; one that still is too long, that has nothing
    supervised or that the template refuses is left out, and counted in `unused` by its reason.
    """
    samples, reasons = [], Counter[str]() if unused is None else unused
    for conversation in conversations:
        try:
            rendered = fit(template, conversation, Supervise(), max_seq_len, "drop_oldest").rendered
        except Unusable as error:
            reasons[str(error)] += 1
            continue
        if rendered is None:
            reasons[f"nothing to answer in {max_seq_len} tokens"] += 1
        else:
            samples.append(Sample(conversation.task, rendered.ids.astype(np.int64), rendered.turns.astype(np.int64)))
    return samples


def stored_samples(store: ConversationStore, numbers: Iterable[int]) -> list[Sample]:
    """Conversations of a store, by their numbers in it."""
    numbers = list(numbers)
    channels = store.channels(np.array(numbers, np.int64)).tolist()
    return [
        Sample(store.tasks[channel], *store.conversation(number))
        for channel, number in zip(channels, numbers, strict=True)
    ]


def closed_turns(samples: Iterable[Sample]) -> dict[str, list[Answer]]:
    """Of each closed task, the ids of its answers, sorted; they are the candidates of `turn_accuracy`."""
    return _closed((s.task, answers[-1][1]) for s in samples if (answers := s.answers()))


def closed_in(store: ConversationStore) -> dict[str, list[Answer]]:
    """Of each closed task of a store, the ids of its answers, as its first training conversations tell."""
    spans = (store.span("train", task)[:CLOSED_FROM] for task in store.tasks_of("train"))
    return closed_turns(stored_samples(store, (number for span in spans for number in span)))


def _closed(final: Iterable[tuple[str, A]]) -> dict[str, list[A]]:
    """Tasks whose conversations, 20 or more, end in one of 2 to 10 answers that each occur twice or more."""
    counts: dict[str, Counter[A]] = defaultdict(Counter)
    for task, answer in final:
        counts[task][answer] += 1
    return {
        task: sorted(count)  # type: ignore[type-var]
        for task, count in sorted(counts.items())
        if 2 <= len(count) <= MAX_CANDIDATES
        and min(count.values()) >= MIN_REPEATS
        and count.total() >= MIN_CONVERSATIONS
    }


def turn_accuracy(
    model: Transformer,
    samples: Iterable[Sample],
    candidates: Mapping[str, Sequence[Answer]],
    runtime: Runtime,
    *,
    batch_tokens: int = 8192,
) -> dict[str, Accuracy]:
    """Of each task, how often the right candidate is the most probable answer; every rank must call it.

    Args:
        model: switched to evaluation and back.
        samples: the same on every rank. Of each, the last answer is asked for, and those before it that are
            candidates; a prompt too long for a candidate loses its oldest ids.
        candidates: the possible answers of each task, as `closed_turns` gives them; other tasks are not asked.
        runtime: device and ranks; ranks share the work. A stop signal cuts it short, and the result means nothing.
        batch_tokens: tokens, padding included, per forward pass.
    """
    asked = [
        (sample.task, sample.ids[max(0, start - _room(model, candidates[sample.task])) : start], answer)
        for sample in samples
        if sample.task in candidates
        for start, answer in asked_answers(sample, candidates[sample.task])
    ]
    asked.sort(key=lambda question: len(question[1]))  # so that the ranks have equal work
    asked = asked[runtime.rank :: runtime.world_size]
    rows = [(prompt, candidate) for task, prompt, _ in asked for candidate in candidates[task]]
    nats = iter(answer_nats(model, rows, runtime, batch_tokens).tolist())
    sums = {task: [0.0, 0.0] for task in sorted(candidates)}
    for task, _, answer in asked:
        scores = {candidate: next(nats) for candidate in candidates[task]}
        best = [candidate for candidate, score in scores.items() if score == min(scores.values())]
        sums[task][0] += (answer in best) / max(1, len(best))  # no best one where a score is no number
        sums[task][1] += 1
    total = runtime.sum([value for pair in sums.values() for value in pair])
    pairs = zip(sums, total[::2], total[1::2], strict=True)
    return {task: Accuracy(correct, int(n)) for task, correct, n in pairs if n}


def asked_answers(sample: Sample, candidates: Sequence[Answer]) -> list[tuple[int, Answer]]:
    """Where the answers that count begin, and their ids: the last, and those before it that are candidates."""
    *earlier, last = sample.answers()
    return [*((start, answer) for start, answer in earlier if answer in candidates), last]


def majority_shares(samples: Iterable[Sample], candidates: Mapping[str, Sequence[Answer]]) -> dict[str, float]:
    """Of each closed task, the accuracy of always giving the most frequent answer."""
    counts: dict[str, Counter[Answer]] = defaultdict(Counter)
    for sample in samples:
        for _, answer in asked_answers(sample, candidates[sample.task]) if sample.task in candidates else ():
            counts[sample.task][answer] += 1
    return {task: max(count.values()) / count.total() for task, count in counts.items()}


def losses(
    model: Transformer, samples: Sequence[Sample], runtime: Runtime, *, batch_tokens: int = 8192
) -> dict[str, tuple[float, int]]:
    """Nats of the supervised tokens and their number, of each task; every rank must call it.

    Args:
        model: switched to evaluation and back.
        samples: the same on every rank.
        runtime: device and ranks; ranks share the work. A stop signal cuts it short, and the result means nothing.
        batch_tokens: tokens, padding included, per forward pass.
    """
    mine = sorted(samples, key=lambda sample: len(sample.ids))[runtime.rank :: runtime.world_size]
    nats = row_nats(model, [Row(s.ids, s.turns > 0) for s in mine], runtime, batch_tokens=batch_tokens)
    sums = {task: [0.0, 0.0] for task in sorted({sample.task for sample in samples})}
    for sample, value in zip(mine, nats.tolist(), strict=True):
        sums[sample.task][0] += value
        sums[sample.task][1] += int((sample.turns[1:] > 0).sum())
    total = runtime.sum([value for pair in sums.values() for value in pair])
    return {task: (value, int(n)) for task, value, n in zip(sums, total[::2], total[1::2], strict=True)}


def answer_nats(
    model: Transformer, rows: Sequence[tuple[NDArray[np.int64], Answer]], runtime: Runtime, batch_tokens: int
) -> NDArray[np.float64]:
    """(len(rows),) nats of each answer after its prompt, (L,) ids; on this rank alone."""
    whole = [np.concatenate([prompt, np.array(answer, np.int64)]) for prompt, answer in rows]
    scored = [np.arange(len(ids)) >= len(prompt) for ids, (prompt, _) in zip(whole, rows, strict=True)]
    return row_nats(model, list(map(Row, whole, scored)), runtime, batch_tokens=batch_tokens)


def _room(model: Transformer, candidates: Sequence[Answer]) -> int:
    """Tokens of a prompt that every candidate fits behind; the last id of a row is never read."""
    return model.config.max_seq_len + 1 - max(map(len, candidates))
