"""What the overlap of characters alone says of a turn: the rule that a classifier has to beat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from babyllm.selection.turns.turn_pairs import TurnPair
from babyllm.selection.turns.turn_texts import FOLLOWS, overlap


class OverlapRule(NamedTuple):
    """A turn follows if the share of its runs of n characters that were said before is at least `least`.

    Attributes:
        n: characters of a run.
        is_last: whether only the last exchange counts, not all.
        least: smallest share.
        accuracy: accuracy on held-out pairs.
    """

    n: int
    is_last: bool
    least: float
    accuracy: float

    def __str__(self) -> str:
        """The rule in words."""
        where = "the last exchange" if self.is_last else "all exchanges"
        return f"at least {self.least:.2f} of the turn's runs of {self.n} characters are in {where}"


def best_overlap(train: Sequence[TurnPair], held_out: Sequence[TurnPair]) -> OverlapRule:
    """The rule that is best on the training pairs, with its accuracy on the held-out ones."""
    best: tuple[float, OverlapRule] | None = None
    known, wanted = _labels(train), _labels(held_out)
    for n in (1, 2, 3):
        for is_last in (True, False):
            shares, others = (np.array([_share(pair, n, is_last) for pair in pairs]) for pairs in (train, held_out))
            limits = np.unique(np.quantile(shares, np.linspace(0, 1, 201)))
            right = [float(((shares >= limit) == known).mean()) for limit in limits]
            at = int(np.argmax(right))
            rule = OverlapRule(n, is_last, float(limits[at]), float(((others >= limits[at]) == wanted).mean()))
            if best is None or right[at] > best[0]:
                best = (right[at], rule)
    assert best is not None
    return best[1]


def predicted(rule: OverlapRule, pairs: Sequence[TurnPair]) -> NDArray[np.bool_]:
    """Whether the turn of each pair follows, by a rule."""
    return np.array([_share(pair, rule.n, rule.is_last) >= rule.least for pair in pairs])


def _labels(pairs: Sequence[TurnPair]) -> NDArray[np.bool_]:
    return np.array([pair.label == FOLLOWS for pair in pairs])


def _share(pair: TurnPair, n: int, is_last: bool) -> float:
    used = pair.before[-1:] if is_last else pair.before
    return overlap(pair.turn, "\n".join(text for one in used for text in one), n)
