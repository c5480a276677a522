"""When two texts are the same: equal in NFC with whitespace normalised, and folded as far as that is wanted.

    Arrow column -> case, width -> NFC -> whitespace -> code points -> punctuation -> Ragged, of which rows are compared

Line breaks are alike; blanks at the end of a line, runs of blanks within one, more than one blank line, whitespace at
the ends of a text and the ideographic spaces that begin a paragraph do not count. The indentation of lines does: it
carries meaning in code. NFC joins what Unicode calls canonically equal and nothing else, so 10² is not 102.
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
# Few texts hold it. Arrow looks for it in all texts at once: runs, or whitespace other than spaces and line feeds.
_UNUSUAL = r"[ \n]{2}|[\t\x0b-\r\x1c-\x1f\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}]"
_BEGIN_OF_PARAGRAPH = re.compile("^\u3000+", re.MULTILINE)
_END_OF_LINE = re.compile(f"[{_BLANKS}]+$", re.MULTILINE)
_WITHIN_LINE = re.compile(f"(?<=[^{_BLANKS}\n])[{_BLANKS}]+")
_BLANK_LINES = re.compile("\n{3,}")
_FOLDED = range(0x20000)  # what has a case or a width lies below


def exact_forms(texts: pa.Array, fold: Sequence[Fold]) -> Ragged:
    """The code points of each text by which it is compared with others.

    Args:
        texts: strings without nulls.
        fold: differences that do not count: of upper and lower case, of full and half width, of punctuation together
            with whitespace. A text of nothing else is compared by its punctuation all the same.
    """
    forms: list[str] = texts.to_pylist()
    if table := _table("case" in fold, "width" in fold):
        forms = [text.translate(table) for text in forms]
    forms = [unicodedata.normalize("NFC", text) for text in forms]
    unusual = pc.match_substring_regex(texts, _UNUSUAL).to_pylist()  # neither folding nor NFC makes or takes whitespace
    forms = [(_plain(text) if is_unusual else text).strip() for text, is_unusual in zip(forms, unusual, strict=True)]
    points = Ragged(code_points("".join(forms)), offsets_of(np.array(list(map(len, forms)), np.int64)))
    if "punctuation" not in fold:
        return points
    counts = kinds(points.values) != DROPPED
    is_bare = np.diff(compress(points, counts).offsets) == 0
    return compress(points, counts | np.repeat(is_bare, points.lengths()))


def _plain(text: str) -> str:
    """A text with whitespace normalised, but for that at its ends."""
    text = _BEGIN_OF_PARAGRAPH.sub("", _BREAK.sub("\n", text))
    text = _WITHIN_LINE.sub(" ", _END_OF_LINE.sub("", text))
    return _BLANK_LINES.sub("\n\n", text)


@cache
def _table(case: bool, width: bool) -> dict[int, str]:
    """What becomes of characters in another case or of another width."""
    table: dict[int, str] = {}
    for point in _FOLDED if case or width else ():
        character = folded = chr(point)
        if width and unicodedata.decomposition(character).startswith(("<wide>", "<narrow>")) and point != 0x3000:
            folded = unicodedata.normalize("NFKC", character)
        folded = folded.casefold() if case else folded
        if folded != character:
            table[point] = folded
    return table
