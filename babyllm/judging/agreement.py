"""Agreement of two raters of the same pairs, such as a person and the judge."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

from babyllm.judging.verdicts import Choice


class Agreement(NamedTuple):
    """How far two raters agree.

    Attributes:
        n: number of pairs that both have rated.
        share: share of them with equal choices; None without any.
        kappa: Cohen's kappa (Cohen 1960): 0 is agreement by chance, 1 complete; None where chance alone agrees.
    """

    n: int
    share: float | None
    kappa: float | None


def agreement(ours: Mapping[str, Choice | None], theirs: Mapping[str, Choice | None]) -> Agreement:
    """The agreement of two raters.

    Args:
        ours: choices of the first by the key of the pair; None where there is none.
        theirs: choices of the second.
    """
    both = [(a, b) for key, a in ours.items() if a and (b := theirs.get(key))]
    n = len(both)
    if not n:
        return Agreement(0, None, None)
    share = sum(a == b for a, b in both) / n
    first, second = Counter(a for a, _ in both), Counter(b for _, b in both)
    by_chance = sum(first[choice] * second[choice] for choice in first) / n**2
    return Agreement(n, share, (share - by_chance) / (1 - by_chance) if by_chance < 1 else None)
