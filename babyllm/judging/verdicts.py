"""Verdicts in what a judge writes. The last one counts; a text without one has none, and is never guessed at."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal

from babyllm.endpoint.replies import LENGTH, Reply

Choice = Literal["A", "B", "tie"]
LOWEST, HIGHEST = 1.0, 10.0
UNCLEAR, CUT = "the reply has no verdict", "the reply was cut before its verdict; raise --endpoint.max_tokens"

# At most so many, since a text of marks alone would take time that grows with the square of its length.
_MARKS = r"""[\s*_`"'「」【】\[\]()（）<>{}]{0,12}"""
# Not "A or B", nor the A of "Answer" or of the article in "a tie".
_LETTER = r"(?P<letter>[AB])(?![A-Za-z])(?!\s*(?:/|&|,|、|\||or\b|and\b|vs|和|与|或))"
_CHOICE = rf"(?:{_LETTER}|(?P<tie>(?i:(?:an?\s+)?tie|draw|C)\b|平局|平手))"
_NAMED = re.compile(
    r"(?i:verdict|winner|better answer|结论|裁决|判定|胜者)"
    rf"{_MARKS}[:：=]{_MARKS}(?i:answer|assistant|回答|助手)?{_MARKS}{_CHOICE}"
)
_BRACKETS = re.compile(rf"\[\[\s*{_CHOICE}\s*\]\]")
_ALONE = re.compile(rf"{_MARKS}{_CHOICE}{_MARKS}[.。]?")


def choice_in(text: str) -> Choice | None:
    """The last verdict of a comparison; None if there is none.

    It is a line such as `Verdict: A` or `结论：平局`, a letter in double brackets, or a last line that is the verdict.
    """
    text = _answer(text)
    found = [match for pattern in (_NAMED, _BRACKETS) for match in pattern.finditer(text)]
    lines = text.split("\n")
    last = max(found, key=lambda match: match.start("letter") + match.start("tie"), default=None)
    last = last or _ALONE.fullmatch(lines[-1].strip())
    if last is None:
        return None
    return "tie" if last["tie"] else "A" if last["letter"] == "A" else "B"


def scores_in(text: str, dimensions: Iterable[str]) -> dict[str, float] | None:
    """The last score of each dimension, from 1 to 10; None if one is missing or out of range."""
    text = _answer(text)
    found = {}
    for name in dimensions:
        pattern = (
            rf"(?i)(?<!\w){re.escape(name)}{_MARKS}[:：=]{_MARKS}(\d+(?:\.\d+)?)(?![\d.]*\d)(?!\s*/(?!\s*10(?!\d)))"
        )
        scores = re.findall(pattern, text)
        if not scores or not LOWEST <= float(scores[-1]) <= HIGHEST:
            return None
        found[name] = float(scores[-1])
    return found


def why_none(reply: Reply) -> str:
    """The reason for which a reply has no verdict."""
    return reply.error or (CUT if reply.finish == LENGTH else UNCLEAR)


def _answer(text: str) -> str:
    """What a model writes after its reasoning; empty if it has not ended that."""
    text = text.rpartition("</think>")[2]
    return "" if "<think>" in text else text.strip()
