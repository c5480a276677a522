"""What a classifier reads of a turn and the exchanges before it: what they share, then the turn, then what came before.

exchanges, turn -> what they share, weighted by rarity, and lengths, as digits; the pieces that they share
                -> the turn; ends of the last question and answer
= (text1, text2) of a pair, for train_classifier.py
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

from babyllm.selection.turns.rarity import MAX_READ, Rarity

LABELS = FOLLOWS, APART = ("follows", "apart")
MAX_SHARED, MAX_TURN, MAX_BEFORE = 32, 48, 24  # characters that the classifier reads of each
MAX_COMPARED = 40_000  # characters of all messages together that are searched for pieces
_LEVELS = 9


class Exchange(NamedTuple):
    """A message of the user, and the assistant's answer to it."""

    question: str
    answer: str


def pair_texts(before: Sequence[Exchange], turn: str, rarity: Rarity) -> tuple[str, str]:
    """The two texts that a classifier reads of a turn.

    The digits are: weighted shares of the turn in the last question, the last answer and everything before, as square
    roots; the rarest run shared with each; the lengths of the turn and of everything before, as logarithms.

    Args:
        before: exchanges before it, at least one.
        turn: what the user says next.
        rarity: how rare runs of words are among messages like these.
    """
    question, answer = before[-1].question, before[-1].answer
    every = [text for one in before for text in one]
    found = [rarity.shared(turn, texts) for texts in ([question], [answer], every)]
    shares = "".join(f"{_level(math.sqrt(one.share))}" for one in found)
    rarest = "".join(f"{_level(one.rarest)}" for one in found)
    lengths = "".join(f"{_level(math.log10(1 + n) / 5)}" for n in (len(turn), sum(map(len, every))))
    said = "\n".join(text[-MAX_READ:] for text in every)
    pieces = " ".join(sorted(shared_pieces(turn, said), key=len, reverse=True))[:MAX_SHARED]
    first = f"{shares} {rarest} {lengths} {pieces or '-'}"
    return first, f"{_ends(turn, MAX_TURN)}\n{_ends(question, MAX_BEFORE)}\n{_ends(answer, MAX_BEFORE)}"


def overlap(turn: str, text: str, n: int) -> float:
    """The share of the turn's runs of n characters that a text has too, without spaces and case; 0 without any."""
    own = _runs(turn, n)
    return len(own & _runs(text, n)) / len(own) if own else 0.0


def shared_pieces(turn: str, text: str) -> list[str]:
    """The longest pieces of the turn, of at least two characters, that a text has too, without those within others."""
    plain, other, found, at = _plain(turn), _plain(text), [], 0
    pairs = _runs(text, 2)
    while at < len(plain) - 1:
        if plain[at : at + 2] not in pairs:
            at += 1
            continue
        end = at + 2
        while end < len(plain) and plain[at : end + 1] in other:
            end += 1
        found.append(plain[at:end])
        at = end
    return list(dict.fromkeys(found))


def is_chinese(text: str) -> bool:
    """Whether a text is mostly Chinese; a character counts as two letters."""
    n_letters = sum(character.isascii() and character.isalpha() for character in text)
    return 2 * sum("\u3400" <= character <= "\u9fff" for character in text) >= n_letters


def _plain(text: str) -> str:
    return "".join(text[-MAX_COMPARED:].casefold().split())


@lru_cache(maxsize=64)
def _runs(text: str, n: int) -> frozenset[str]:
    plain = _plain(text)
    return frozenset(plain[i : i + n] for i in range(len(plain) - n + 1))


def _level(share: float) -> int:
    return min(_LEVELS, int(share * (_LEVELS + 1)))


def _ends(text: str, most: int) -> str:
    """The text in one line; of a long one its beginning and its end."""
    text = " ".join(text.split())
    return text if len(text) <= most else f"{text[: most // 2]}…{text[-(most - most // 2) :]}"


def exchanges_of(messages: Iterator[tuple[str, str]] | Sequence[tuple[str, str]]) -> list[Exchange]:
    """The exchanges of (role, content) pairs: of several messages of the user in a row the last one counts."""
    found, asked = [], None
    for role, content in messages:
        if role == "user":
            asked = content
        elif role == "assistant" and asked is not None:
            found.append(Exchange(asked, content))
            asked = None
    return found
