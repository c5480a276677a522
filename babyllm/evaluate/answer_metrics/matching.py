"""Metrics that are 1 or 0: equal texts, texts that contain another, and equal numbers."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from babyllm.evaluate.answer_metrics.overlap import tokens

INVALID = "[invalid]"
"""The number of an answer without one; it equals no reference."""

# The four patterns after which lm-evaluation-harness compares the answers of GSM8K.
_IGNORED = tuple(map(re.compile, (",", r"\$", r"(?s).*#### ", r"\.$")))
_STRICT = re.compile(r"#### (\-?[0-9\.\,]+)")
_FLEXIBLE = re.compile(r"(-?[$0-9.,]{2,})|(-?[0-9]+)")


def exact(answer: str, references: Sequence[str]) -> float:
    """1 if the answer equals a reference, except for white space around it, else 0."""
    return float(answer.strip() in {reference.strip() for reference in references})


def exact_normalised(answer: str, references: Sequence[str]) -> float:
    """As `exact`, for texts in Unicode's form NFKC and lower case, without punctuation and spaces between words."""
    return float(_normalised(answer) in map(_normalised, references))


def _normalised(text: str) -> tuple[str, ...]:
    text = unicodedata.normalize("NFKC", text)
    return tuple(tokens(text)) or (text.strip(),)  # signs alone are compared as they are


def contains(answer: str, references: Sequence[str]) -> float:
    """1 if a reference occurs in the answer, character by character, else 0."""
    return float(any(reference in answer for reference in references))


# ---- numbers


def strict_number(text: str) -> str:
    """The number after the first `####` of a text, as written; `INVALID` without one (lm-eval's `strict-match`)."""
    found = _STRICT.search(text)
    return found[1].strip() if found else INVALID


def last_number(text: str) -> str:
    """The last number of a text, as written; `INVALID` without one (lm-eval's `flexible-extract`)."""
    found = _FLEXIBLE.findall(text)
    return (found[-1][0] or found[-1][1]).strip() if found else INVALID


def number(answer: str, references: Sequence[str]) -> float:
    """1 if the last number of the answer is that of a reference, else 0, by the rules of lm-eval for GSM8K.

    A reference is a number or a text with the number after `####`. Numbers are compared as texts without commas, dollar
    signs and a full stop at the end, so 18 and 18.0 differ.
    """
    return _is_number(last_number(answer), references)


def number_strict(answer: str, references: Sequence[str]) -> float:
    """As `number`, for the number after the first `####` of the answer."""
    return _is_number(strict_number(answer), references)


def _is_number(found: str, references: Sequence[str]) -> float:
    return float(_bare(found) in map(_bare, references))


def _bare(text: str) -> str:
    for pattern in _IGNORED:
        text = pattern.sub("", text)
    return text.lower()
