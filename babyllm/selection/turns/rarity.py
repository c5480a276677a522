"""How rare runs of words are among messages, and what a turn shares with what was said, weighted by it.

messages -> runs of one, two and three words -> number of messages with each -> rarity, 0 to 1

A word is a run of letters and digits, or one character of a script that is written without spaces. Rare words that two
texts share say more than common ones: the weights are those of inverse document frequency (Spärck Jones 1972).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import chain
from typing import NamedTuple

MAX_READ = 4000  # characters of a message, from its end
MAX_MESSAGES = 10_000  # that are counted; their runs take about 150 MB
_RUNS = (1, 2, 3)  # words of a run
_UNSPACED = "\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"  # Thai, Lao, kana and Chinese characters
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W_{_UNSPACED}]+")


class Shared(NamedTuple):
    """What a turn shares with texts.

    Attributes:
        share: share of the turn's runs that the texts have, weighted by squared rarity; the mean over run lengths.
        rarest: rarity of the rarest run that they share; 0 without any.
    """

    share: float
    rarest: float


class Rarity:
    """The rarity of runs of words among messages."""

    def __init__(self, messages: Iterable[str]) -> None:
        """Count the runs of messages, of at most `MAX_MESSAGES`."""
        self._counts: Counter[str] = Counter()
        n_messages = 0
        for message in messages:
            if n_messages == MAX_MESSAGES:
                break
            n_messages += 1
            self._counts.update(chain.from_iterable(runs(message, n) for n in _RUNS))
        self._most = math.log(n_messages + 1)

    def of(self, run: str) -> float:
        """1 for a run that no message has, 0 for one that all have; logarithmic between."""
        return 1 - math.log(self._counts[run] + 1) / self._most if self._most else 1.0

    def shared(self, turn: str, texts: Sequence[str]) -> Shared:
        """What a turn shares with texts."""
        shares, rarest = [], 0.0
        for n in _RUNS:
            own = runs(turn, n)
            rarities = [self.of(run) for run in own.intersection(chain.from_iterable(runs(text, n) for text in texts))]
            total = math.fsum(self.of(run) ** 2 for run in own)
            shares.append(math.fsum(rarity**2 for rarity in rarities) / total if total else 0.0)
            rarest = max(rarest, *rarities, 0.0)
        return Shared(sum(shares) / len(shares), rarest)


@lru_cache(maxsize=1024)
def runs(text: str, n: int) -> frozenset[str]:
    """The runs of n words of the end of a text, without case and punctuation."""
    words = _WORD.findall(text[-MAX_READ:].casefold())
    return frozenset(" ".join(words[i : i + n]) for i in range(len(words) - n + 1))
