"""Conversations counted as they come, a batch at a time.

conversations -> batches -> Diversity of each -> sums of equally many batches -> Diversity of all
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from babyllm.chat.messages import ASSISTANT, SYSTEM, Conversation
from babyllm.chat_corpus.diversity.tallies import Tally, TextTally, text_keys
from babyllm.chat_corpus.diversity.terms import (
    Tokens,
    main_scripts,
    opening,
    pairs_of,
    shared_shares,
    tokens_of,
)
from babyllm.chat_corpus.diversity.totals import SAMPLE, Diversity, Sample, merge
from babyllm.ragged import GOLDEN, U64, Ragged, hash_rows, mix, offsets_of
from babyllm.text.readers import Rejected

BATCH_CHARACTERS, BATCH_CONVERSATIONS = 1 << 20, 4096
SWITCH = 0.05
"""A question switches the topic if a smaller share of its terms occurs in the turn before (`terms.shared_shares`)."""
SAMPLE_CHARACTERS = 2000
"""Characters of a conversation in which distances are measured."""
PAIR_LIMIT = 1 << 21
"""Largest number of different pairs of tokens that are counted exactly."""


class Turn(NamedTuple):
    """An answer, and what was said to the model since the answer before."""

    prompt: str
    answer: str


def turns_of(conversation: Conversation) -> list[Turn]:
    """The turns of a conversation; messages between two answers are joined by line breaks, system messages left out."""
    turns, said = list[Turn](), list[str]()
    for message in conversation.messages:
        if message.role == ASSISTANT:
            turns.append(Turn("\n".join(said), message.content))
            said = []
        elif message.role != SYSTEM:
            said.append(message.content)
    return turns


def diversity_of(found: Iterable[Conversation | Rejected]) -> Diversity:
    """The diversity of conversations, in one pass and in bounded memory.

    Args:
        found: conversations and rejected records, such as those of `babyllm.chat.reading.read_conversations`.
    """
    rejected = Counter[str]()
    sums: list[tuple[int, Diversity]] = []  # numbers of batches, each less than half of the one before, and their sums
    for batch in _batches(found, rejected):
        sums.append((1, _diversity(batch)))
        while len(sums) > 1 and sums[-2][0] <= sums[-1][0]:
            (n, last), (m, before) = sums.pop(), sums.pop()
            sums.append((n + m, before + last))
    return merge([Diversity.nothing(rejected), *(part for _, part in sums)])


def _batches(found: Iterable[Conversation | Rejected], rejected: Counter[str]) -> Iterator[list[Conversation]]:
    batch, size = list[Conversation](), 0
    for item in found:
        if isinstance(item, Rejected):
            rejected[item.reason] += 1
            continue
        batch.append(item)
        size += sum(len(message.content) for message in item.messages)
        if size >= BATCH_CHARACTERS or len(batch) >= BATCH_CONVERSATIONS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _diversity(batch: Sequence[Conversation]) -> Diversity:
    of_conversations = [turns_of(conversation) for conversation in batch]
    turns = [turn for own in of_conversations for turn in own]
    n_turns = np.array([len(own) for own in of_conversations], np.int64)
    prompts, answers = [turn.prompt for turn in turns], [turn.answer for turn in turns]
    prompt_keys, answer_keys = text_keys(prompts), text_keys(answers)
    has_prompt = np.array([bool(prompt.strip()) for prompt in prompts], bool)
    asked, asked_keys = [prompt for prompt in prompts if prompt.strip()], prompt_keys[has_prompt]
    tasks = [conversation.task for conversation in batch]
    systems = [_system(conversation) for conversation in batch]
    pairs = mix(prompt_keys * GOLDEN + answer_keys)
    keys = _conversation_keys(systems, pairs, n_turns)
    tokens = tokens_of(prompts + answers)
    owners = np.repeat(np.arange(len(batch)), n_turns)
    scripts, script_tokens = main_scripts(tokens, np.concatenate([owners, owners]), len(batch))
    follow_ups, switches = _switches(tokens, n_turns)
    prompt_tokens, prompt_pairs = _frequencies(tokens, slice(0, len(turns)))
    answer_tokens, answer_pairs = _frequencies(tokens, slice(len(turns), None))
    return Diversity(
        counts={
            "conversations": len(batch),
            "blank_answers": sum(not answer.strip() for answer in answers),
            "follow_ups": follow_ups,
            "switches": switches,
        },
        rejected={},
        scripts=scripts,
        script_tokens=script_tokens,
        tasks=TextTally.of_texts(tasks),
        top_tasks=TextTally.of_texts([task.partition("/")[0] for task in tasks]),
        systems=TextTally.of_texts([text for text in systems if text]),
        conversations=Tally.of(keys),
        turns=Tally.of(n_turns.astype(np.uint64)),
        prompts=TextTally.of_texts(asked, asked_keys),
        answers=TextTally.of_texts(answers, answer_keys),
        pairs=Tally.of(pairs),
        prompt_openings=_openings(asked),
        answer_openings=_openings(answers),
        prompt_lengths=Tally.of(np.array([len(prompt) for prompt in asked], np.uint64)),
        answer_lengths=Tally.of(np.array([len(answer) for answer in answers], np.uint64)),
        prompt_tokens=prompt_tokens,
        answer_tokens=answer_tokens,
        prompt_pairs=prompt_pairs,
        answer_pairs=answer_pairs,
        sample=_sample(batch, of_conversations, keys),
    )


def _system(conversation: Conversation) -> str:
    parts = [f"{m.content}\n{m.tools}".strip() for m in conversation.messages if m.role == SYSTEM]
    return "\n".join(part for part in parts if part)


def _openings(texts: Sequence[str]) -> TextTally:
    return TextTally.of_texts([begin for text in texts if (begin := opening(text))])


def _conversation_keys(systems: Sequence[str], pairs: U64, n_turns: NDArray[np.int64]) -> U64:
    """(conversations,) uint64 hashes of conversations, from their system messages and the keys of their turns."""
    return mix(text_keys(systems) * GOLDEN + hash_rows(Ragged(pairs, offsets_of(n_turns)))[0])


def _switches(tokens: Tokens, n_turns: NDArray[np.int64]) -> tuple[int, int]:
    """The number of turns after a first that have terms, and of those that switch the topic."""
    total, firsts = int(n_turns.sum()), offsets_of(n_turns)[:-1]
    is_first = np.zeros(total + 1, bool)
    is_first[firsts] = True
    later = np.flatnonzero(~is_first[:total])
    if not len(later):
        return 0, 0
    shares = shared_shares(tokens, later, [(turn - 1, total + turn - 1) for turn in later.tolist()])
    return int((~np.isnan(shares)).sum()), int((shares < SWITCH).sum())


def _frequencies(tokens: Tokens, texts: slice) -> tuple[TextTally, Tally]:
    """The tallies of the tokens of some texts, which follow each other, and of the pairs of adjacent tokens."""
    offsets = tokens.rows.offsets
    first, last = slice(texts.start, texts.stop).indices(len(offsets) - 1)[:2]
    begin, end = int(offsets[first]), int(offsets[last])
    rows = Ragged(tokens.rows.values[begin:end], offsets[first : last + 1] - begin)
    return TextTally.of(rows.values, lambda i: tokens.text(begin + i)), Tally.of(
        pairs_of(rows).values, None, PAIR_LIMIT
    )


def _sample(batch: Sequence[Conversation], turns: Sequence[Sequence[Turn]], keys: U64) -> Sample:
    drawn = mix(text_keys([conversation.id for conversation in batch]) * GOLDEN + keys)
    chosen = np.argsort(drawn, kind="stable")[:SAMPLE].tolist()
    return Sample.of(drawn[chosen].tolist(), [_beginning(turns[i]) for i in chosen])


def _beginning(turns: Sequence[Turn]) -> str:
    parts, left = list[str](), SAMPLE_CHARACTERS
    for part in (text for turn in turns for text in turn):
        parts.append(part[: max(0, left)])
        left -= len(part) + 1
        if left <= 0:
            break
    return "\n".join(parts)
