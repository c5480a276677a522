"""Filters that measure a text and reject it if the measure is out of bounds: length, shares, language, words."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from babyllm.config.values import AnyCount, Finite, PathText, Rate
from babyllm.errors import UserError
from babyllm.files import sha256
from babyllm.text.clean.filters.grams import code_points
from babyllm.text.clean.syntax.characters import HAN, fill, table
from babyllm.text.readers import ReadConfig
from babyllm.text.readers.decoding.encodings import text_of_file
from babyllm.text.readers.records import BadRecord

# ---- length


@dataclass(frozen=True)
class Length:
    """Reject texts that are too short or too long.

    Attributes:
        min: fewest characters.
        max: most characters; null for no limit.
    """

    min: AnyCount = 15
    max: AnyCount | None = None

    def test(self, text: str) -> str | None:
        """Why the text is rejected, or None."""
        if len(text) < self.min:
            return f"fewer than {self.min:,} characters"
        if self.max is not None and len(text) > self.max:
            return f"more than {self.max:,} characters"
        return None


# ---- shares

Bounds = tuple[float, float]
KINDS = ("chinese", "letters", "digits", "symbols")


@dataclass(frozen=True)
class Shares:
    """Reject texts by the shares of kinds of characters, each as [least, most]; spaces do not count.

    Attributes:
        chinese: Chinese characters.
        letters: letters of all other scripts.
        digits: digits and numbers.
        symbols: all other characters: punctuation, signs, emoji, undefined code points.
    """

    chinese: Bounds = (0.0, 1.0)
    letters: Bounds = (0.0, 1.0)
    digits: Bounds = (0.0, 0.5)
    symbols: Bounds = (0.0, 0.5)

    def judge(self, texts: Sequence[str]) -> list[str | None]:
        """Why each text is rejected, or None."""
        return [self._reason(counts) for counts in kind_counts(texts)]

    def _reason(self, counts: Sequence[int]) -> str | None:
        total = sum(counts)
        bounds = (self.chinese, self.letters, self.digits, self.symbols)
        for kind, count, (least, most) in zip(KINDS, counts, bounds, strict=True):
            if count < least * total:
                return f"share of {kind} below {least:g}"
            if count > most * total:
                return f"share of {kind} above {most:g}"
        return None


def kind_counts(texts: Sequence[str]) -> list[list[int]]:
    """The number of characters of each kind in each text, in the order of `KINDS`; spaces do not count."""
    codes, starts = code_points(texts)
    owners = np.repeat(np.arange(len(texts)), np.diff(starts))
    n_kinds = len(KINDS) + 1
    counts = np.bincount(owners * n_kinds + _kinds()[codes], minlength=len(texts) * n_kinds)
    rows: list[list[int]] = counts.reshape(len(texts), n_kinds)[:, 1:].tolist()
    return rows


@cache
def _kinds() -> NDArray[np.uint8]:
    """(0x110000,) uint8 kind of every code point: 0 for spaces, else its index in `KINDS` + 1."""
    by_category = {"Z": 0, "L": 2, "M": 2, "N": 3}
    kinds = table(lambda character: by_category.get(unicodedata.category(character)[0], 4), 4)
    kinds[[9, 10, 11, 12, 13, 0x85]] = 0
    fill(kinds, HAN, 1)
    return kinds


# ---- language

_LANGUAGE_CHARACTERS = 2000  # read at the beginning of a text, enough to identify its language


@dataclass(frozen=True)
class Language:
    """Reject texts in languages other than those allowed, as identified by py3langid.

    Attributes:
        allow: ISO 639-1 codes, such as zh and en.
        confidence: lowest probability of the language, 0 to 1; below it a text is rejected, too.
    """

    allow: tuple[str, ...] = ("zh", "en")
    confidence: Finite = 0.0

    def test(self, text: str) -> str | None:
        """Why the text is rejected, or None.

        Raises:
            UserError: py3langid is not installed, or does not know a language of `allow`.
        """
        language, confidence = _identifier(self.allow).classify(text[:_LANGUAGE_CHARACTERS])
        if language not in self.allow:
            return f"language {language}"
        return f"confidence in the language below {self.confidence:g}" if confidence < self.confidence else None


@cache
def _identifier(allow: Sequence[str]) -> Any:
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError as error:
        raise UserError('filter language needs py3langid: pip install "babyllm[corpus]"') from error
    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    unknown = [code for code in allow if code not in identifier.labels]
    if unknown or not allow:
        known = " ".join(sorted(identifier.labels))
        raise UserError(f"--language.allow: {unknown[0] if unknown else 'empty'}; choose from {known}")
    return identifier


# ---- words


@dataclass(frozen=True)
class Words:
    """Reject texts that contain words of a list, in upper or lower case; Latin words count only as whole words.

    Attributes:
        file: file with one word or phrase per line; needed when the filter is used.
        max_count: most occurrences; null for no limit.
        max_share: largest share of characters within listed words, 0 to 1; null for no limit.
    """

    file: PathText = ""
    max_count: AnyCount | None = 0
    max_share: Rate | None = None

    def test(self, text: str) -> str | None:
        """Why the text is rejected, or None.

        Raises:
            UserError: the file is missing, cannot be read or has no words.
        """
        first, words = _word_list(self.file)
        folded, n_words, n_characters, end = text.casefold(), 0, 0, 0
        for found in first.finditer(folded):
            start = found.start()
            if start < end:
                continue
            word = next((w for w in words[found[0]] if folded.startswith(w, start) and _alone(folded, start, w)), "")
            if word:
                n_words, n_characters, end = n_words + 1, n_characters + len(word), start + len(word)
        if self.max_count is not None and n_words > self.max_count:
            return f"more than {self.max_count:,} listed words"
        if self.max_share is not None and n_characters > self.max_share * len(folded):
            return f"share of listed words above {self.max_share:g}"
        return None

    def digests(self, read: ReadConfig) -> dict[str, str]:
        """The sha256 of the list."""
        return {"words": sha256(Path(self.file))} if Path(self.file).is_file() else {}


def _alone(text: str, start: int, word: str) -> bool:
    """Whether a word is whole: where it begins or ends with a Latin letter or digit, no other one is next to it."""
    before, after = text[start - 1 : start], text[start + len(word) : start + len(word) + 1]
    return not (_is_latin(word[0]) and _is_latin(before)) and not (_is_latin(word[-1]) and _is_latin(after))


def _is_latin(character: str) -> bool:
    return character.isascii() and character.isalnum()


@cache
def _word_list(file: str) -> tuple[re.Pattern[str], Mapping[str, Sequence[str]]]:
    """A pattern that matches the first characters, and the words by first character, the longest first."""
    if not file:
        raise UserError("--words.file is missing: name a file with one word per line")
    try:
        lines = text_of_file(Path(file)).splitlines()
    except (OSError, BadRecord) as error:
        raise UserError(f"--words.file={file}: cannot be read ({error}); save it as UTF-8 text") from error
    words: dict[str, list[str]] = {}
    for word in sorted({line.strip().casefold() for line in lines if line.strip()}, key=lambda w: (-len(w), w)):
        words.setdefault(word[0], []).append(word)
    if not words:
        raise UserError(f"--words.file={file}: holds no words")
    return re.compile(f"[{re.escape(''.join(words))}]"), words
