"""Exact repetition: two texts are the same if they are equal in NFC, with normalised whitespace and optional folding.

    Arrow column -> case, width -> NFC -> whitespace -> code points -> punctuation -> Ragged, whose rows are compared

All kinds of line break are equal. Some whitespace does not count: blanks at the end of a line, the length of a run of
blanks within a line, blank lines after a first one, whitespace at the ends of a text, and ideographic spaces at the
beginning of a paragraph. Indentation counts, because it has a meaning in code. NFC unites only what Unicode calls
canonically equivalent, so 10² is not 102.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import cache
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from babyllm.ragged import Ragged, compress, offsets_of
from babyllm.text.dedup.normal import DROPPED, code_points, kinds

Fold = Literal["case", "width", "punctuation"]
_BREAK = re.compile("\r\n?|[\x85\u2028\u2029]")
_BLANKS = " \t\v\f\xa0\u1680\u2000-\u200a\u202f\u205f\u3000"
# Runs of whitespace, or whitespace other than spaces and line feeds. Few texts have any; Arrow searches all at once.
_UNUSUAL = r"[ \n]{2}|[\t\x0b-\r\x1c-\x1f\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}]"
_BEGIN_OF_PARAGRAPH = re.compile("^\u3000+", re.MULTILINE)
_END_OF_LINE = re.compile(f"[{_BLANKS}]+$", re.MULTILINE)
_WITHIN_LINE = re.compile(f"(?<=[^{_BLANKS}\n])[{_BLANKS}]+")
_BLANK_LINES = re.compile("\n{3,}")
_FOLDED = range(0x20000)  # all characters with a case or a width are below


def exact_forms(texts: pa.Array, fold: Sequence[Fold]) -> Ragged:
    """The uint32 code points, one row per text, by which texts are compared.

    Args:
        texts: (texts,) strings without nulls.
        fold: differences that do not count: upper and lower case, full and half width, or punctuation together with
            whitespace. A text of punctuation alone is still compared by its punctuation.
    """
    forms: list[str] = texts.to_pylist()
    if table := folded_characters("case" in fold, "width" in fold):
        forms = [text.translate(table) for text in forms]
    forms = [unicodedata.normalize("NFC", text) for text in forms]
    unusual = pc.match_substring_regex(texts, _UNUSUAL).to_pylist()  # folding and NFC add or remove no whitespace
    forms = [(_plain(text) if is_unusual else text).strip() for text, is_unusual in zip(forms, unusual, strict=True)]
    points = Ragged(code_points("".join(forms)), offsets_of(np.array(list(map(len, forms)), np.int64)))
    if "punctuation" not in fold:
        return points
    counts = kinds(points.values) != DROPPED
    is_bare = np.diff(compress(points, counts).offsets) == 0
    return compress(points, counts | np.repeat(is_bare, points.lengths()))


def _plain(text: str) -> str:
    """The text with normalised whitespace, except at its ends."""
    text = _BEGIN_OF_PARAGRAPH.sub("", _BREAK.sub("\n", text))
    text = _WITHIN_LINE.sub(" ", _END_OF_LINE.sub("", text))
    return _BLANK_LINES.sub("\n\n", text)


@cache
def folded_characters(case: bool, width: bool) -> dict[int, str]:
    """Map from each code point that folding case or width changes to its folded text."""
    table: dict[int, str] = {}
    for point in _FOLDED if case or width else ():
        character = folded = chr(point)
        if width and unicodedata.decomposition(character).startswith(("<wide>", "<narrow>")) and point != 0x3000:
            folded = unicodedata.normalize("NFKC", character)
        folded = folded.casefold() if case else folded
        if folded != character:
            table[point] = folded
    return table
