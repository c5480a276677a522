"""Pairs made two by two, so that what is right in one sentence is wrong in the other.

If x goes with a, and y with b, the pairs are (x a, x b) and (y b, y a). Every word is then as often in good sentences
as in bad ones, so that neither length nor the frequency of characters says which sentence is good.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import NamedTuple

Fact = tuple[str, str]
"""A thing, and what is true of it."""


class Pair(NamedTuple):
    """A minimal pair.

    Attributes:
        good: sentence that is right.
        bad: sentence that differs in little, and is wrong.
    """

    good: str
    bad: str


def crossed(
    rng: random.Random,
    facts: Sequence[Fact],
    frame: str,
    n: int,
    *,
    may_cross: Callable[[Fact, Fact], bool] = lambda one, other: one[1] != other[1],
) -> list[Pair]:
    """At most `n` pairs of facts whose second parts are exchanged.

    Args:
        rng: source of randomness.
        facts: facts, each of which is in at most one couple.
        frame: sentence with {0} for the thing and {1} for what is said of it.
        n: largest number of pairs.
        may_cross: whether both facts become wrong, in the way that the paradigm is about, if they exchange their parts.
    """
    left = list(dict.fromkeys(facts))
    rng.shuffle(left)
    made: list[Pair] = []
    while len(left) > 1 and len(made) + 2 <= n:
        one = left.pop()
        at = next((i for i in range(len(left) - 1, -1, -1) if may_cross(one, left[i]) and may_cross(left[i], one)), -1)
        if at >= 0:
            other = left.pop(at)
            made += [Pair(frame.format(*a), frame.format(a[0], b[1])) for a, b in ((one, other), (other, one))]
    return made


def reordered(rng: random.Random, sentences: Sequence[Pair], n: int) -> list[Pair]:
    """At most `n` of the pairs, drawn at random, each with the same characters in both sentences."""
    found = [pair for pair in dict.fromkeys(sentences) if sorted(pair.good) == sorted(pair.bad)]
    rng.shuffle(found)
    return found[:n]
