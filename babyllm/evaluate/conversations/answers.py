"""Loss by task and accuracy on tasks with few possible answers, over conversations as ids.

samples -> prompt + each candidate -> nats -> the most probable one is right?

A task is closed when its answers come from a small set, such as "positive" and "negative". Its answers need not be
generated: the model's answer is the most probable candidate, each candidate including its end token.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from babyllm.evaluate.conversations.samples import AnswerIds, Sample, stored_samples
from babyllm.evaluate.scoring import BATCH_TOKENS, Row, row_nats
from babyllm.model.transformer import Transformer
from babyllm.runtime import Runtime
from babyllm.store.conversations import ConversationStore

MAX_CANDIDATES = 10
MIN_REPEATS = 2
MIN_CONVERSATIONS = 20
CLOSED_FROM = 2000  # conversations of each task of a store that decide whether it is closed


class Accuracy(NamedTuple):
    """How often the most probable candidate was the right one.

    Attributes:
        correct: number of right answers; if k candidates are equally probable, the right one counts 1 / k.
        n: number of answers that were predicted.
    """

    correct: float
    n: int


def closed_turns(samples: Iterable[Sample]) -> dict[str, list[AnswerIds]]:
    """The possible answers of each closed task, as token ids, sorted; they are the candidates of `turn_accuracy`.

    A task is closed if it has 20 or more conversations that end in 2 to 10 different answers, and each of these answers
    occurs twice or more.
    """
    counts: dict[str, Counter[AnswerIds]] = defaultdict(Counter)
    for sample in samples:
        if answers := sample.answers():
            counts[sample.task][answers[-1][1]] += 1
    return {
        task: sorted(count)
        for task, count in sorted(counts.items())
        if 2 <= len(count) <= MAX_CANDIDATES
        and min(count.values()) >= MIN_REPEATS
        and count.total() >= MIN_CONVERSATIONS
    }


def closed_in(store: ConversationStore) -> dict[str, list[AnswerIds]]:
    """The possible answers of each closed task of a store, found in its first `CLOSED_FROM` training conversations."""
    spans = (store.span("train", task)[:CLOSED_FROM] for task in store.tasks_of("train"))
    return closed_turns(stored_samples(store, (number for span in spans for number in span)))


def turn_accuracy(
    model: Transformer,
    samples: Iterable[Sample],
    candidates: Mapping[str, Sequence[AnswerIds]],
    runtime: Runtime,
    *,
    batch_tokens: int = BATCH_TOKENS,
) -> dict[str, Accuracy]:
    """How often the right candidate is the most probable answer, by task; every rank must call it.

    Args:
        model: model to evaluate; it is in evaluation mode meanwhile.
        samples: conversations, the same on every rank. Their last answers count, and earlier ones that are candidates.
            A prompt too long for a candidate loses its oldest ids.
        candidates: possible answers of each task, as `closed_turns` returns them; other tasks are left out.
        runtime: device and ranks; ranks share the work. After a stop signal the result is incomplete: discard it.
        batch_tokens: tokens per forward pass, including padding.
    """
    asked = [
        (sample.task, sample.ids[max(0, start - _prompt_limit(model, candidates[sample.task])) : start], answer)
        for sample in samples
        if sample.task in candidates
        for start, answer in asked_answers(sample, candidates[sample.task])
    ]
    asked.sort(key=lambda question: len(question[1]))  # so that all ranks have about the same work
    asked = asked[runtime.rank :: runtime.world_size]
    rows = [(prompt, candidate) for task, prompt, _ in asked for candidate in candidates[task]]
    nats = iter(answer_nats(model, rows, runtime, batch_tokens).tolist())
    sums = {task: [0.0, 0.0] for task in sorted(candidates)}
    for task, _, answer in asked:
        scores = {candidate: next(nats) for candidate in candidates[task]}
        best = [candidate for candidate, score in scores.items() if score == min(scores.values())]
        sums[task][0] += (answer in best) / max(1, len(best))  # no best candidate if a score is NaN
        sums[task][1] += 1
    total = runtime.sum([value for pair in sums.values() for value in pair])
    pairs = zip(sums, total[::2], total[1::2], strict=True)
    return {task: Accuracy(correct, int(n)) for task, correct, n in pairs if n}


def asked_answers(sample: Sample, candidates: Sequence[AnswerIds]) -> list[tuple[int, AnswerIds]]:
    """The answers that count: the last one, and earlier ones that are candidates; each as its start index and ids."""
    *earlier, last = sample.answers()
    return [*((start, answer) for start, answer in earlier if answer in candidates), last]


def majority_shares(samples: Iterable[Sample], candidates: Mapping[str, Sequence[AnswerIds]]) -> dict[str, float]:
    """The accuracy of always answering with the most frequent answer, by closed task."""
    counts: dict[str, Counter[AnswerIds]] = defaultdict(Counter)
    for sample in samples:
        for _, answer in asked_answers(sample, candidates[sample.task]) if sample.task in candidates else ():
            counts[sample.task][answer] += 1
    return {task: max(count.values()) / count.total() for task, count in counts.items()}


def losses(
    model: Transformer, samples: Sequence[Sample], runtime: Runtime, *, batch_tokens: int = BATCH_TOKENS
) -> dict[str, tuple[float, int]]:
    """Nats of the supervised tokens, summed, and the number of these tokens, by task; every rank must call it.

    Args:
        model: model to evaluate; it is in evaluation mode meanwhile.
        samples: conversations, the same on every rank.
        runtime: device and ranks; ranks share the work. After a stop signal the result is incomplete: discard it.
        batch_tokens: tokens per forward pass, including padding.
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
    model: Transformer, rows: Sequence[tuple[NDArray[np.int64], AnswerIds]], runtime: Runtime, batch_tokens: int
) -> NDArray[np.float64]:
    """Nats of each answer after its prompt (L,), as (R,) float64 for R rows; ranks do not share the work."""
    whole = [np.concatenate([prompt, np.array(answer, np.int64)]) for prompt, answer in rows]
    scored = [np.arange(len(ids)) >= len(prompt) for ids, (prompt, _) in zip(whole, rows, strict=True)]
    return row_nats(model, list(map(Row, whole, scored)), runtime, batch_tokens=batch_tokens)


def _prompt_limit(model: Transformer, candidates: Sequence[AnswerIds]) -> int:
    """Largest number of prompt tokens that leaves room for every candidate; the last id of a row is not an input."""
    return model.config.max_seq_len + 1 - max(map(len, candidates))
