"""Pairs for the classifier of turns: a next turn, and one of another conversation, alike in length and language.

    conversations -> held out or not, by a hash of the first message -> {"text1", "text2", "label"}

Two of three turns from elsewhere are later ones, so what they look like says little; the rest begin a conversation, as
in conversations that were put together of single ones.
"""

from __future__ import annotations

import random
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from babyllm.selection.turns.turn_texts import APART, FOLLOWS, Exchange, is_chinese

SHORTEST, LONGEST = 0.8, 1.25  # of a turn from elsewhere, as a share of the length of the next one
MAX_TURNS = 10  # of a conversation, so that a long one does not outweigh the others
_ATTEMPTS = 50


class TurnPair(NamedTuple):
    """Exchanges, and a turn that follows from them or not.

    Attributes:
        before: exchanges before the turn.
        turn: what the user says, there or elsewhere.
        label: "follows" or "apart".
    """

    before: Sequence[Exchange]
    turn: str
    label: str


def turn_pairs(conversations: Sequence[Sequence[Exchange]], seed: int, per_turn: int = 1) -> Iterator[TurnPair]:
    """Pairs of both labels, equally many of each.

    Args:
        conversations: exchanges of each conversation.
        seed: seed of the turns from elsewhere.
        per_turn: number of turns from elsewhere for each next turn, which is repeated as often.
    """
    rng = random.Random(seed)
    pool = sorted(
        (len(one.question), i, k) for i, exchanges in enumerate(conversations) for k, one in enumerate(exchanges)
    )
    lengths = [length for length, _, _ in pool]
    for i, exchanges in enumerate(conversations):
        for k in range(1, min(len(exchanges), MAX_TURNS + 1)):
            turn = exchanges[k].question
            near = range(
                bisect_left(lengths, SHORTEST * len(turn)),
                bisect_right(lengths, max(LONGEST * len(turn), len(turn) + 1)),
            )
            for _ in range(per_turn):
                other = _elsewhere(rng, near, pool, conversations, i, turn)
                if other is not None:
                    yield TurnPair(exchanges[:k], turn, FOLLOWS)
                    yield TurnPair(exchanges[:k], other, APART)


def _elsewhere(
    rng: random.Random,
    near: range,
    pool: Sequence[tuple[int, int, int]],
    conversations: Sequence[Sequence[Exchange]],
    own: int,
    turn: str,
) -> str | None:
    """A turn of another conversation; None if none is like this one in length and language."""
    is_first = rng.random() < 1 / 3
    for attempt in range(_ATTEMPTS if near else 0):
        _, i, k = pool[rng.choice(near)]
        other = conversations[i][k].question
        is_of_kind = (k == 0) == is_first or attempt > _ATTEMPTS // 2
        if i != own and is_of_kind and other != turn and is_chinese(other) == is_chinese(turn):
            return other
    return None
