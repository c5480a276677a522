"""Warnings in words where the data say the same.

A warning needs a share above its threshold even at the lower end of Wilson's interval of three standard errors (Wilson
1927, equation 5), so that chance in a small set is not a reason.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from babyllm.chat_corpus.diversity.record_distances import Distances
from babyllm.chat_corpus.diversity.tallies import Tally, TextTally
from babyllm.chat_corpus.diversity.totals import Diversity
from babyllm.pipeline.rejections import MANY

ERRORS = 3.0  # standard errors of the interval
LEAST = 10  # smallest number of equal things that a warning is about
EQUAL = 0.01  # share of prompts or answers that are equal to one text
N_EQUAL = 5  # most texts of prompts, and of answers, that are named
REPEATED = 0.1  # share of conversations, turns, prompts or answers that repeat an earlier one
SAME_SYSTEM = 0.9  # share of conversations with one system message
SAME_OPENING = 0.3  # share of prompts or answers that begin alike
SHORT, MANY_SHORT = 10, 0.5  # characters of a longer answer, and the share of answers that are shorter
BLANK = 0.01  # share of blank answers
FEW_TASKS = 0.9  # share of conversations in one task of two or more, or in two tasks of four or more
FREQUENT, MOST_TEXT = 100, 0.8  # number of the most frequent tokens, and their share of all
MANY_SWITCHES = 0.75  # share of later questions that share no terms with the turn before
CLOSE = 0.6  # mean distance of pairs of tokens below which conversations are alike


def warnings_of(diversity: Diversity, apart: Distances | None = None) -> list[str]:
    """The warnings, one line each.

    Args:
        diversity: what is counted.
        apart: distances between conversations, if they are known.
    """
    d = diversity
    return [
        *_equal("prompts", d.prompts),
        *_equal("answers", d.answers),
        *_repeated("conversations", d.conversations),
        *_repeated("pairs of prompt and answer", d.pairs),
        *_repeated("prompts", d.prompts.table),
        *_repeated("answers", d.answers.table),
        *_systems(d),
        *_openings("prompts", d.prompt_openings, d.prompts.total),
        *_openings("answers", d.answer_openings, d.answers.total),
        *_answers(d),
        *_tasks(d.tasks, d.n),
        *_frequent("prompts", d.prompt_tokens),
        *_frequent("answers", d.answer_tokens),
        *_switches(d),
        *_close(apart),
        *_rejected(d),
    ]


def least_share(count: float, n: int) -> float:
    """The lower end of Wilson's interval of `ERRORS` standard errors for a share of `count` in `n`; 0 without any."""
    if not n:
        return 0.0
    share, room = count / n, ERRORS**2 / n
    spread = ERRORS * math.sqrt(share * (1 - share) / n + room / (4 * n))
    return max(0.0, (share + room / 2 - spread) / (1 + room))


def is_many(count: float, n: int, threshold: float) -> bool:
    """Whether a count is large, and its share of `n` above the threshold beyond chance."""
    return count >= LEAST and least_share(count, n) > threshold


def _share(count: float, n: int) -> str:
    share = 100 * count / n
    if 99 < share < 100:
        return f"{min(share, 99.9):.1f} %"
    return f"{share:.0f} %" if share >= 10 else f"{share:.1f} %"


def _equal(name: str, texts: TextTally) -> Iterator[str]:
    for _, text, count in texts.top(N_EQUAL):
        if is_many(count, texts.total, EQUAL):
            yield f'{count:,} {name} ({_share(count, texts.total)}) are equal to "{text}"'


def _repeated(name: str, tally: Tally) -> Iterator[str]:
    count = tally.total - tally.distinct
    if is_many(count, tally.total, REPEATED):
        yield f"{count:,} {name} ({_share(count, tally.total)}) repeat an earlier one; `babyllm dedup` removes them"


def _systems(d: Diversity) -> Iterator[str]:
    for _, text, count in d.systems.top(1):
        if is_many(count, d.n, SAME_SYSTEM):
            who = f"all {d.n:,}" if count == d.n else f"{_share(count, d.n)} of the"
            yield f'{who} conversations have the same system message: "{text}"'


def _openings(name: str, openings: TextTally, total: int) -> Iterator[str]:
    for _, text, count in openings.top(1):
        if is_many(count, total, SAME_OPENING):
            yield f'{_share(count, total)} of the {name} begin with "{text}"'


def _answers(d: Diversity) -> Iterator[str]:
    blank, n = d.counts.get("blank_answers", 0), d.answers.total
    if is_many(blank, n, BLANK):
        yield f"{blank:,} answers ({_share(blank, n)}) are blank"
    short = d.answer_lengths.below(SHORT)
    if is_many(short, n, MANY_SHORT):
        yield f"{_share(short, n)} of the answers are under {SHORT} characters"


def _tasks(tasks: TextTally, n: int) -> Iterator[str]:
    largest = tasks.top(2)
    if len(largest) < 2:
        return
    if is_many(largest[0][2], n, FEW_TASKS):
        yield f'the task "{largest[0][1]}" holds {_share(largest[0][2], n)} of the conversations'
    elif tasks.table.distinct >= 4 and is_many(both := largest[0][2] + largest[1][2], n, FEW_TASKS):
        names = " and ".join(f'"{text}"' for _, text, _ in largest)
        yield f"two tasks, {names}, hold {_share(both, n)} of the conversations"


def _frequent(name: str, tokens: TextTally) -> Iterator[str]:
    count = frequent_tokens(tokens)
    # A set with few tokens has few different ones whatever it says: there must be a hundred for each frequent one.
    if tokens.total >= 100 * FREQUENT and is_many(count, tokens.total, MOST_TEXT):
        yield f"{FREQUENT} tokens make up {_share(count, tokens.total)} of the text of the {name}"


def frequent_tokens(tokens: TextTally) -> int:
    """The number of occurrences of the `FREQUENT` most frequent tokens."""
    return sum(count for *_, count in tokens.top(FREQUENT))


def _switches(d: Diversity) -> Iterator[str]:
    switches, n = d.counts.get("switches", 0), d.counts.get("follow_ups", 0)
    if is_many(switches, n, MANY_SWITCHES):
        yield (
            f"{_share(switches, n)} of the later questions share next to nothing with the turn before; conversations "
            "may be joined from unrelated ones"
        )


def _rejected(d: Diversity) -> Iterator[str]:
    count = sum(d.rejected.values())
    if is_many(count, n := count + d.n, MANY):
        reason, most = max(d.rejected.items(), key=lambda item: (item[1], item[0]))
        yield f"{count:,} records ({_share(count, n)}) were rejected, {most:,} of them: {reason}"


def _close(apart: Distances | None) -> Iterator[str]:
    if apart and apart.n >= LEAST and apart.jaccard.value + ERRORS * apart.jaccard.chance < CLOSE:
        yield (
            f"two conversations have {100 * (1 - apart.jaccard.value):.0f} % of their pairs of tokens in common on "
            "average"
        )
