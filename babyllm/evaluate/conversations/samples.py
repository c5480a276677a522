"""Conversations as token ids, for evaluation: from memory or from a store, all of them or some drawn at random.

conversations | store -> Sample(task, ids, turns)
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from babyllm.chat.load import ChatTemplate, Supervise, fit
from babyllm.chat.messages import Conversation, Unusable
from babyllm.store.conversations import ConversationStore
from babyllm.store.shards import Split

AnswerIds = tuple[int, ...]
"""The token ids of an answer, including its end token."""


class Sample(NamedTuple):
    """A conversation as token ids.

    Attributes:
        task: name of the task the conversation belongs to.
        ids: (L,) int64 token ids.
        turns: (L,) integers: the number of the supervised turn of each id, from 1; 0 if the id is not supervised.
    """

    task: str
    ids: NDArray[np.int64]
    turns: NDArray[np.int64]

    def answers(self) -> list[tuple[int, AnswerIds]]:
        """The index at which each supervised turn begins in `ids`, and the ids of the turn."""
        numbers = np.unique(self.turns[self.turns > 0])
        indices = (np.flatnonzero(self.turns == number) for number in numbers)
        return [(int(found[0]), tuple(self.ids[found].tolist())) for found in indices]


def samples_of(
    template: ChatTemplate,
    conversations: Iterable[Conversation],
    max_seq_len: int,
    unused: Counter[str] | None = None,
) -> list[Sample]:
    """Conversations as token ids; every assistant turn is supervised unless its weight is 0.

    A conversation longer than `max_seq_len` loses its oldest turns. It is left out if it is still too long, has no
    supervised tokens or is rejected by the template.

    Args:
        template: chat template that renders the conversations.
        conversations: conversations to render.
        max_seq_len: largest number of tokens of a sample.
        unused: counter that counts the conversations left out, by reason; None counts nothing.
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
    """Conversations of a store, by their indices in it."""
    numbers = list(numbers)
    channels = store.channels(np.array(numbers, np.int64)).tolist()
    return [
        Sample(store.tasks[channel], *store.conversation(number))
        for channel, number in zip(channels, numbers, strict=True)
    ]


def split_samples(store: ConversationStore, split: Split, n: int | None = None, seed: int = 0) -> list[Sample]:
    """Conversations of a split, ordered by task; all of them, or `n` drawn evenly over the tasks.

    Args:
        store: conversations prepared for a run.
        split: "train" or "val".
        n: number of conversations to draw; None takes all.
        seed: seed of the draw.
    """
    spans = {task: store.span(split, task) for task in store.tasks_of(split)}
    sizes = {task: len(span) for task, span in spans.items()}
    chosen = {task: range(size) for task, size in sizes.items()} if n is None else draw_evenly(sizes, n, seed)
    return stored_samples(store, [spans[task][i] for task, indices in chosen.items() for i in indices])


def drawn_samples(samples: Iterable[Sample], n: int, seed: int) -> list[Sample]:
    """`n` of the samples, or all if there are fewer, drawn evenly over their tasks with the seed `seed`."""
    by_task: dict[str, list[Sample]] = {}
    for sample in samples:
        by_task.setdefault(sample.task, []).append(sample)
    chosen = draw_evenly({task: len(mine) for task, mine in by_task.items()}, n, seed)
    return [by_task[task][i] for task, indices in chosen.items() for i in indices]


def draw_evenly(sizes: Mapping[str, int], n: int, seed: int) -> dict[str, list[int]]:
    """The indices of `n` conversations within their tasks, drawn evenly over the tasks; all if there are fewer.

    Args:
        sizes: number of conversations of each task.
        n: number of conversations to draw.
        seed: seed of the draw; equal seeds draw the same conversations.
    """
    counts, rest = dict[str, int](), n
    for n_left, task in zip(range(len(sizes), 0, -1), sorted(sizes, key=lambda name: (sizes[name], name)), strict=True):
        counts[task] = min(sizes[task], rest // n_left)  # larger tasks fill in for smaller ones
        rest -= counts[task]
    return {
        task: sorted(random.Random(f"{seed} {task}").sample(range(sizes[task]), count))
        for task, count in sorted(counts.items())
    }
