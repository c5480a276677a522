"""The filter for texts that repeat themselves: the rules of Gopher (Rae et al. 2021, table A1).

    texts -> units (Chinese characters, words of other scripts) -> sorted n-grams of all texts at once -> suspects
    suspects -> one at a time: lines, paragraphs, n-grams -> reason

Sorting all n-grams of a batch costs a fraction of counting them text by text. It compares hashes, so it may suspect a
text wrongly but never misses one. A text is rejected only after its n-grams were counted exactly.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from babyllm.config.values import AnyCount, Finite
from babyllm.text.clean.filters.grams import Units
from babyllm.text.clean.syntax.characters import HAN, KANA

_UNIT = re.compile(rf"[{HAN}{KANA}]|[^\W_{HAN}{KANA}]+")
_PARAGRAPH_BREAK = re.compile(r"\n\s*\n")
_TOP = {2: 0.20, 3: 0.18, 4: 0.16}
_REPEATED = {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10}
_REPEATED_LINES, _REPEATED_LINE_CHARACTERS = 0.30, 0.20
_ROUNDING = 1 - 1e-9  # two ways to compute a share may differ in the last bit
_LOOKED_AT = 1 << 20  # characters read of a text, to bound memory; they suffice to find repetition


@dataclass(frozen=True)
class Repetition:
    """Reject texts that repeat themselves, by the rules of Gopher (Rae et al. 2021, table A1).

    A text is rejected if more than 0.30 of its lines or paragraphs are repeated; if repeated lines or paragraphs hold
    more than 0.20 of its characters; if its most frequent 2-, 3- or 4-gram makes up more than 0.20, 0.18 or 0.16 of
    them; or if repeated 5- to 10-grams cover more than 0.15, 0.14, 0.13, 0.12, 0.11 or 0.10 of them. The units of
    n-grams are Chinese characters, and words of other scripts. In n-grams only the characters of units count. Only the
    first million characters of a text are read.

    Attributes:
        min_characters: fewest characters of a text for these rules; in a shorter one every repetition is a large share.
        short_share: largest share of a shorter text's characters that repeated 5-grams may cover.
    """

    min_characters: AnyCount = 250
    short_share: Finite = 0.5

    def judge(self, texts: Sequence[str]) -> list[str | None]:
        """Why each text is rejected, or None."""
        return [
            _repeated_lines(head, self.min_characters) or (self._repeated_grams(head) if is_suspect else None)
            for heads in _batches(texts)
            for head, is_suspect in zip(heads, self._suspects(Units.of(heads)).tolist(), strict=True)
        ]

    def _suspects(self, units: Units) -> NDArray[np.bool_]:
        """(D,) bool: true for every text that breaks a rule about n-grams, and for few others."""
        is_long = units.text_sizes >= self.min_characters
        repeated = units.repeated_share(5)
        is_suspect = ~is_long & (repeated > self.short_share * _ROUNDING)
        # Where longer n-grams repeat, 5-grams repeat too.
        for rules, share_of, texts in (
            (_TOP, Units.largest_share, is_long),
            (_REPEATED, Units.repeated_share, is_long & (repeated > min(_REPEATED.values()) * _ROUNDING)),
        ):
            chosen = units.only(texts)
            for n, share in rules.items():
                is_suspect |= share_of(chosen, n) > share * _ROUNDING
        return is_suspect

    def _repeated_grams(self, text: str) -> str | None:
        units = _UNIT.findall(text)
        total = sum(map(len, units))
        if total >= self.min_characters:
            return _frequent_grams(units, total) or _repeated_grams(units, total)
        if _covered(units, 5) > self.short_share * total:
            return f"short, and repeated 5-grams cover more than {self.short_share:g} of the characters"
        return None


def _batches(texts: Sequence[str]) -> Iterator[list[str]]:
    """The parts of the texts that are read, in batches small enough for `Units`."""
    batch: list[str] = []
    n_characters = 0
    for text in texts:
        batch.append(text[:_LOOKED_AT])
        n_characters += len(batch[-1])
        if n_characters >= _LOOKED_AT:
            yield batch
            batch, n_characters = [], 0
    if batch:
        yield batch


def _repeated_lines(text: str, min_characters: int) -> str | None:
    if "\n" not in text or len(text) < min_characters:
        return None
    for name, pieces in (("paragraphs", _PARAGRAPH_BREAK.split(text)), ("lines", text.split("\n"))):
        pieces = [stripped for piece in pieces if (stripped := piece.strip())]
        first = set(pieces)
        if len(pieces) - len(first) > _REPEATED_LINES * len(pieces):
            return f"more than {_REPEATED_LINES:g} of the {name} repeated"
        n_characters = sum(map(len, pieces))
        if n_characters - sum(map(len, first)) > _REPEATED_LINE_CHARACTERS * n_characters:
            return f"repeated {name} hold more than {_REPEATED_LINE_CHARACTERS:g} of the characters"
    return None


def _frequent_grams(units: Sequence[str], total: int) -> str | None:
    for n, share in _TOP.items():
        for gram, count in Counter(_grams(units, n)).items():
            if count > 1 and count * sum(map(len, gram)) > share * total:
                return f"one {n}-gram makes up more than {share:g} of the characters"
    return None


def _repeated_grams(units: Sequence[str], total: int) -> str | None:
    for n, share in _REPEATED.items():
        if _covered(units, n) > share * total:
            return f"repeated {n}-grams cover more than {share:g} of the characters"
    return None


def _covered(units: Sequence[str], n: int) -> int:
    """The number of characters within n-grams that occurred before; each character counts once."""
    seen: set[tuple[str, ...]] = set()
    end, n_characters = 0, 0  # units before `end` have been counted
    for start, gram in enumerate(_grams(units, n)):
        if gram in seen:
            n_characters += sum(map(len, units[max(start, end) : start + n]))
            end = start + n
        else:
            seen.add(gram)
    return n_characters


def _grams(units: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return list(zip(*(units[i:] for i in range(n)), strict=False))
