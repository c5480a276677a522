"""Whether the arithmetic of an answer is right: its result, or every equation that it has."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from fractions import Fraction

from babyllm.verification.expressions import NoValue, is_rounded, value_of

MAX_TEXT = 1 << 20
NO_EQUATION = "wrong: the answer has no equation"
_RUN = re.compile(r"(?:,(?!\s)|\.(?=\d)|[\d+\-−–*×÷·/^%()$¥€£=\s]){3,}")
_NUMBER = re.compile(r"-?[$¥￥€£]?\d[\d,]*(?:\.\d+)?%?|-?\.\d+")
_OPERATED = re.compile(r"[\d)%]\s*[-+*/^×÷−·]+\s*[$¥￥€£(]*\s*\d")
_JOINS = re.compile(r"(?:\b[xX]|\bof|\btimes|[乘除加减]以?)\s*$")
_ENDS_OPEN, _BEGINS_OPEN = re.compile(r"[-+*/^×÷−·(=]\s*$"), re.compile(r"^\s*[+*/^×÷·%)]")


def wrong_result(answer: str, expression: str) -> str:
    """The reason for which the last number of an answer is not the value of an expression; empty if it is.

    Raises:
        NoValue: the expression has none, which is the record's fault.
    """
    value = value_of(expression)
    numbers = _NUMBER.findall(unicodedata.normalize("NFKC", answer[-MAX_TEXT:]))
    if not numbers:
        return "wrong: the answer has no number"
    last = numbers[-1].rstrip(",")
    return "" if is_rounded(last, value) else f"wrong: the answer is {_shown(value)}, not {last}"


def wrong_equation(answer: str) -> str:
    """The reason for which the equations of an answer do not hold; empty if it has some and all of them do.

    An equation is a run of numbers and signs with `=` whose left side calculates something. One that words or units
    interrupt is left out.
    """
    found = False
    for sides in _equations(answer[:MAX_TEXT]):
        try:
            values = [value_of(side) for side in sides]
        except NoValue:
            continue
        found = True
        for left, right, text in zip(values, values[1:], sides[1:], strict=False):
            if left != right and not is_rounded(text, left) and not is_rounded(text.rstrip("%"), left):
                return f"wrong: {' = '.join(sides)[:200]}"
    return "" if found else NO_EQUATION


def _equations(answer: str) -> Iterator[list[str]]:
    """The sides of every equation, of which the first has an operation."""
    plain = re.sub(r"<<[^<>]*>>", " ", unicodedata.normalize("NFKC", answer)).replace("\u2044", "/")  # of ¾, as 3⁄4
    for line in re.sub(r"(?<=[\d)])\s*[xX]\s*(?=[\d($.])", " * ", plain).splitlines():
        for match in _RUN.finditer(line):
            text = match.group().rstrip(" ,.\t").lstrip(" ,\t")
            before, after = line[: match.start()], line[match.end() :]
            if "=" not in text or _is_joined(before, text, after):
                continue
            sides = [side.strip(" ,\t") for side in re.split(r"=+", text)]
            while sides and not re.search(r"\d", sides[0]):
                sides = sides[1:]
            if len(sides) > 1 and all(re.search(r"\d", side) for side in sides) and _OPERATED.search(sides[0]):
                yield sides


def _is_joined(before: str, text: str, after: str) -> bool:
    """Whether words take part in a calculation: `2 apples + 3 = 5`, `3 + x = 5`."""
    begins = bool(_BEGINS_OPEN.search(text) or (text[0] != "=" and _JOINS.search(before))) or (
        text[0] in "-−–" and bool(before.strip())
    )
    return begins or bool(_ENDS_OPEN.search(text) and after.strip())


def _shown(value: Fraction) -> str:
    text = str(value)
    return text if len(text) <= 60 else "another number"
