"""Requests of lm-evaluation-harness, each a context and a continuation, as questions that read contexts once.

(context, continuation) pairs -> by context -> beginnings that contexts share -> Question

The questions depend on the set of pairs alone, not on their order, so the numbers do not depend on it either.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from babyllm.evaluate.tasks.prompts import MIN_SHARED, Ids, Question, n_equal

Pair = tuple[Ids, Ids]
MOST_OPTIONS = 16
"""Largest number of continuations of a question, which are read together."""


def questions_of(pairs: Iterable[Pair]) -> list[Question]:
    """Questions that have each of the pairs of context and continuation once, as a context and an option.

    Args:
        pairs: ids of context and continuation, at least one each.
    """
    options: dict[Ids, list[Ids]] = defaultdict(list)
    for context, continuation in sorted(set(pairs), key=lambda pair: (pair[0], len(pair[1]), pair[1])):
        options[context].append(continuation)
    shared = _shared(options)
    questions: list[Question] = []
    for context, all_of_it in options.items():
        for start in range(0, len(all_of_it), MOST_OPTIONS):
            some = tuple(all_of_it[start : start + MOST_OPTIONS])
            questions.append(Question(str(len(questions)), (context,) * len(some), some, shared.get(context, 0)))
    return questions


def _shared(contexts: Iterable[Ids]) -> dict[Ids, int]:
    """The number of ids at the beginning of a context that it shares with others of its group; none if it is alone.

    Args:
        contexts: different contexts, sorted.
    """
    found: dict[Ids, int] = {}
    group: list[Ids] = []
    n = 0
    for context in contexts:
        fewer = n_equal(group[0][:n], context[:-1]) if group else 0
        # One more member saves reading `fewer` ids, and costs the others what they share beyond these.
        if group and fewer >= MIN_SHARED and len(group) * (n - fewer) <= fewer:
            group.append(context)
            n = fewer
        else:
            group, n = [context], len(context) - 1
        if len(group) > 1:
            found.update(dict.fromkeys(group, n))
    return found
