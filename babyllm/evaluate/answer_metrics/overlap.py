"""Metrics by shared tokens: F1 and ROUGE, on characters for Chinese and on words for other languages."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from babyllm.text.clean.syntax.characters import HAN, KANA

_TOKEN = re.compile(rf"[{HAN}{KANA}]|[^\W_{HAN}{KANA}]+")


def tokens(text: str) -> list[str]:
    """The tokens of a text for F1 and ROUGE, in lower case and without punctuation.

    A Chinese character or a kana is a token, and so is each run of other letters and digits. For English these are the
    words of the package rouge-score without stemming. That package cuts words at other letters, such as é, and drops
    all Chinese.
    """
    return _TOKEN.findall(text.lower())


def f1(answer: str, references: Sequence[str]) -> float:
    """The F1 of the answer's `tokens`, whatever their order; the same number as ROUGE-1."""
    return rouge_1(answer, references)


def rouge_1(answer: str, references: Sequence[str]) -> float:
    """ROUGE-1: the F1 of `tokens` (Lin 2004, section 2)."""
    return _rouge_n(answer, references, 1)


def rouge_2(answer: str, references: Sequence[str]) -> float:
    """ROUGE-2: the F1 of pairs of `tokens` (Lin 2004, section 2)."""
    return _rouge_n(answer, references, 2)


def rouge_l(answer: str, references: Sequence[str]) -> float:
    """ROUGE-L: the F1 of the longest common subsequence of `tokens` (Lin 2004, section 3.1)."""
    ours = tokens(answer)
    return max(_f1(_common(ours, theirs), len(ours), len(theirs)) for theirs in map(tokens, references))


def _rouge_n(answer: str, references: Sequence[str], n: int) -> float:
    ours = _n_grams(answer, n)
    found = [(ours & theirs, theirs) for theirs in (_n_grams(reference, n) for reference in references)]
    return max(_f1(shared.total(), ours.total(), theirs.total()) for shared, theirs in found)


def _n_grams(text: str, n: int) -> Counter[tuple[str, ...]]:
    words = tokens(text)
    return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))


def _f1(n_shared: int, n_ours: int, n_theirs: int) -> float:
    precision, recall = n_shared / max(n_ours, 1), n_shared / max(n_theirs, 1)
    return 2 * precision * recall / (precision + recall) if n_shared else 0.0


def _common(ours: Sequence[str], theirs: Sequence[str]) -> int:
    """The length of the longest common subsequence, computed on the bits of integers (Hyyrö 2004)."""
    masks: dict[str, int] = {}
    for i, token in enumerate(ours):
        masks[token] = masks.get(token, 0) | 1 << i
    everything = (1 << len(ours)) - 1
    left = everything
    for token in theirs:
        matched = left & masks.get(token, 0)
        left = (left + matched | left - matched) & everything
    return len(ours) - left.bit_count()
