"""The normal form of a text, by which texts are compared.

The text is normalised to NFKC and casefolded; then whitespace, punctuation, control and format characters are dropped.
Symbols (such as + or an emoji) stay. "Ｈello，　World！" and "hello world" have the same normal form.

    Arrow column -> fold -> Ragged of folded code points -> characters -> Ragged without the dropped ones

A table maps each code point to its folded one. That is exact unless a code point of the text acts on its neighbours
under NFKC (combining marks, conjoining Hangul) or becomes several; documents with such are folded by `unicodedata`.
"""

from __future__ import annotations

import unicodedata
from functools import cache
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from babyllm.ragged import Ragged, compress, offsets_of

DROPPED, WORD, SINGLE, SYMBOL = range(4)  # kinds of code points

N_CODE_POINTS = 0x110000
# Code points looked up one by one; the blocks between have one kind each and are not changed by NFKC and casefold.
_VARIED = (*range(0x3400), *range(0x4DC0, 0x4E00), *range(0xA000, 0xAC00), *range(0xD7A4, 0xD800),
           *range(0xF900, 0x20000), *range(0x2F800, 0x2FA20), *range(0xE0000, 0xE01F0))  # fmt: skip
_HANGUL = slice(0xAC00, 0xD7A4)
_IDEOGRAPHS = ((0x3400, 0x4DC0), (0x4E00, 0xA000), (0x20000, 0x2FA20), (0x30000, 0x33480))
_SINGLES = ((0x2E80, 0x2FE0), (0x3005, 0x3008), (0x3021, 0x302A), (0x3040, 0x3100), (0x31F0, 0x3200), (0xF900, 0xFB00))
_VARIATION_SELECTORS = ((0xFE00, 0xFE10), (0xE0100, 0xE01F0))


class _Tables(NamedTuple):
    folded: NDArray[np.uint32]
    needs_context: NDArray[np.bool_]
    kind: NDArray[np.uint8]


def fold_text(text: str) -> str:
    """The text in NFKC, casefolded."""
    return unicodedata.normalize("NFKC", text).casefold()


def normal_form(text: str) -> str:
    """The folded text without whitespace, punctuation, control and format characters."""
    kind = _tables().kind
    return "".join(c for c in fold_text(text) if kind[ord(c)] != DROPPED)


def kinds(points: NDArray[np.uint32]) -> NDArray[np.uint8]:
    """(n,) uint8 kinds of (n,) uint32 code points.

    A kind is DROPPED, WORD (letters, marks, digits), SINGLE (Chinese characters, kana: words by themselves) or SYMBOL.
    """
    return _tables().kind.take(points)


def fold(column: pa.Array) -> Ragged:
    """The folded code points (uint32) of each text of a column of large strings without nulls."""
    tables = _tables()
    text = joined_text(column)
    points = code_points(text)
    offsets = offsets_of(pc.utf8_length(column).to_numpy())
    if not (hits := np.flatnonzero(tables.needs_context.take(points))).size:
        return Ragged(tables.folded.take(points), offsets)
    slow = np.unique(np.searchsorted(offsets, hits, side="right") - 1)
    pieces, lengths, end = [], np.diff(offsets), 0
    for row in slow.tolist():
        pieces.append(tables.folded.take(points[end : offsets[row]]))
        end = offsets[row + 1]
        pieces.append(code_points(fold_text(text[offsets[row] : end])))
        lengths[row] = len(pieces[-1])
    return Ragged(np.concatenate([*pieces, tables.folded.take(points[end:])]), offsets_of(lengths))


def characters(folded: Ragged) -> Ragged:
    """The normal forms of folded texts, as uint32 code points."""
    return compress(folded, kinds(folded.values) != DROPPED)


def joined_text(column: pa.Array) -> str:
    """All texts of a column of large strings without nulls, one after another."""
    bounds = np.frombuffer(column.buffers()[1], np.int64)[column.offset : column.offset + len(column) + 1]
    return str(memoryview(column.buffers()[2] or b"")[bounds[0] : bounds[-1]], "utf-8")


def code_points(text: str) -> NDArray[np.uint32]:
    """(characters,) uint32 code points of a text."""
    return np.frombuffer(text.encode("utf-32-le"), "<u4")


@cache
def _tables() -> _Tables:
    kind = np.full(N_CODE_POINTS, SYMBOL, np.uint8)
    of_category = {
        "Z": DROPPED,
        "P": DROPPED,
        "L": WORD,
        "M": WORD,
        "N": WORD,
        "S": SYMBOL,
        "Cc": DROPPED,
        "Cf": DROPPED,
    }
    texts = [chr(c) for c in _VARIED]
    categories = list(map(unicodedata.category, texts))
    kind[list(_VARIED)] = [of_category.get(c, of_category.get(c[0], SYMBOL)) for c in categories]
    kind[_HANGUL] = WORD
    for start, stop in _IDEOGRAPHS:
        kind[start:stop] = SINGLE
    for start, stop in _SINGLES:
        block = kind[start:stop]
        block[block == WORD] = SINGLE
    for start, stop in _VARIATION_SELECTORS:
        kind[start:stop] = DROPPED
    folded = np.arange(N_CODE_POINTS, dtype=np.uint32)
    needs_context = np.zeros(N_CODE_POINTS, bool)
    seconds = _combining_seconds(texts)
    # One call normalises all texts: they are joined by a character that nothing combines with.
    joined = "\0".join(texts[1:])
    for text, result, parts in zip(
        texts[1:], fold_text(joined).split("\0"), unicodedata.normalize("NFKD", joined).split("\0"), strict=True
    ):
        if parts[0] in seconds or unicodedata.combining(parts[0]):
            needs_context[ord(text)] = True
        elif result != text:
            if len(result) == 1:
                folded[ord(text)] = ord(result)
            elif all(kind[ord(c)] == DROPPED for c in result):
                folded[ord(text)] = ord(" ")
            else:
                needs_context[ord(text)] = True
    return _Tables(folded, needs_context, kind)


def _combining_seconds(texts: list[str]) -> set[str]:
    """The characters that may merge with the character before them."""
    pairs = (unicodedata.decomposition(text).split() for text in texts)
    seconds = {chr(int(pair[1], 16)) for pair in pairs if len(pair) == 2 and pair[0][0] != "<"}
    return seconds | {chr(c) for c in (*range(0x1161, 0x1176), *range(0x11A8, 0x11C3))}
