"""Settings of `babyllm turns`."""

from __future__ import annotations

from dataclasses import dataclass

from babyllm.config.values import AnyCount, Seed, Share


@dataclass(frozen=True)
class TurnConfig:
    """What becomes of conversations.

    Attributes:
        threshold: mean probability of its turns under which a conversation counts as put together of others.
        share: share of these that is kept all the same, chosen by a hash of their text.
        last_true: whether a conversation is cut after the last turn that follows, and only that answer is trained on;
            one without such a turn is left out.
    """

    threshold: Share = 0.5
    share: Share = 0.0
    last_true: bool = False


@dataclass(frozen=True)
class PairConfig:
    """How pairs are made.

    Attributes:
        held_out: share of the conversations whose pairs are held out.
        per_turn: turns from elsewhere for each next turn, to train on; held-out pairs have one.
        seed: seed of the turns from elsewhere.
    """

    held_out: Share = 0.25
    per_turn: AnyCount = 3
    seed: Seed = 1
