"""Prompt look-up: a guess at the next tokens of a text, from what came after its last tokens earlier (Saxena 2023).

The engine reads a guess in one step and draws a token after each of its tokens, as long as the draws agree with it.
Each draw is the one without a guess: this is speculative sampling (Leviathan et al. 2023, algorithm 1) for a guess
that is certain of itself. So the same seed draws the same tokens, whatever the settings.
"""

from __future__ import annotations

from collections.abc import Sequence

_LENGTH = 3  # tokens that must agree
_MOST = 7  # a step with this guess reads 8 tokens, and takes 1.5 to 3 times as long as one with a token
_FEWEST_RIGHT = 2  # fewer right tokens do not pay for their step
_LONGEST_WAIT = 64


class LookUp:
    """Guesses for one text; after wrong guesses it pauses, for twice as many tokens each time."""

    def __init__(self) -> None:
        self._ends: dict[tuple[int, ...], int] = {}
        self._n_entered = _LENGTH
        self._wait, self._next_wait = 0, 1

    def guess(self, ids: Sequence[int], most: int) -> list[int]:
        """The tokens, at most `most`, that came after the last tokens of a text before; the text may only grow."""
        if self._wait:
            self._wait -= 1
            return []
        for end in range(self._n_entered, len(ids)):
            self._ends[tuple(ids[end - _LENGTH : end])] = end
        self._n_entered = max(_LENGTH, len(ids))
        begin = self._ends.get(tuple(ids[-_LENGTH:]))
        return list(ids[begin : begin + min(most, _MOST)]) if begin else []

    def judge(self, n_right: int) -> None:
        """Take note of how many tokens of the last guess were right."""
        if n_right >= _FEWEST_RIGHT:
            self._next_wait = 1
        else:
            self._wait, self._next_wait = self._next_wait, min(2 * self._next_wait, _LONGEST_WAIT)
