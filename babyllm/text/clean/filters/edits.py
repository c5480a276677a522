"""Filters that repair a text: wrong decoding, invisible characters, traditional Chinese, whitespace.

Each first tests whether a text needs it, because most texts do not. The tests search for one set of characters or one
string, which is cheap: a pattern with alternatives takes several times as long.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from functools import cache
from typing import Any

from babyllm.errors import UserError
from babyllm.text.clean.syntax.code import in_prose

# ---- unicode

# The encodings with which UTF-8 is most often decoded by mistake.
_ENCODINGS = (
    *("latin-1", "cp1250", "cp1251", "cp1252", "cp1253", "cp1254", "cp1257"),
    *("iso8859-2", "mac-roman", "cp437"),
)


def _readings(first: int, last: int) -> str:
    """The characters that wrong encodings make of the bytes from `first` to `last`, escaped for a set in a pattern."""
    raw = bytes(range(first, last + 1))
    return re.escape("".join(sorted({c for name in _ENCODINGS for c in raw.decode(name, "ignore")})))


# Dashes, quotes and ellipses follow each other in good text, so they do not count as the first
# byte of a misread character.
_HEADS = re.sub("[\u2000-\uffff]", "", _readings(0xC2, 0xF4))
_RADICALS = {code: unicodedata.normalize("NFKC", chr(code)) for code in (0x2E9F, 0x2EF3, *range(0x2F00, 0x2FD6))}
_C1 = "\x80-\x84\x86-\x9f"
_MISREAD = re.compile(f"[{_HEADS}{_C1}](?:(?<=[{_HEADS}])[{_readings(0x80, 0xBF)}]|(?<=[{_C1}]))")
_RADICAL = re.compile("[\u2e9f\u2ef3\u2f00-\u2fd5]")


@dataclass(frozen=True)
class Unicode:
    """Repair wrongly decoded text (cafÃ© -> café) and normalise it to NFC, Unicode's composed form.

    Radicals that stand for a character of the same shape (⼈ -> 人), as in PDFs, become that character. Full-width
    forms and punctuation stay as they are, and so do code and tables.
    """

    def edit(self, text: str) -> str:
        """The repaired text.

        Raises:
            UserError: the text needs ftfy, which is not installed.
        """
        return text if text.isascii() else in_prose(text, _repaired)


def _repaired(text: str) -> str:
    if _MISREAD.search(text):
        text = _ftfy()(text)
    if _RADICAL.search(text):
        text = text.translate(_RADICALS)
    return text if unicodedata.is_normalized("NFC", text) else unicodedata.normalize("NFC", text)


@cache
def _ftfy() -> Any:
    try:
        import ftfy
    except ImportError as error:
        raise UserError('filter unicode needs ftfy: pip install "babyllm[corpus]"') from error
    config = ftfy.TextFixerConfig(
        unescape_html=False,
        remove_terminal_escapes=False,
        fix_latin_ligatures=False,
        fix_character_width=False,
        uncurl_quotes=False,
        fix_line_breaks=False,
        remove_control_chars=False,
        normalization=None,
        explain=False,
    )
    return lambda text: ftfy.fix_text(text, config)


# ---- controls

# Scripts and emoji in which joiners have a meaning, scripts that are read from right to left, and scripts whose words
# are separated by zero-width spaces.
_JOINED = (
    "\u0600-\u109f\u1780-\u18af\u1a20-\u1bff\ua800-\uabff\u2600-\u27bf\ufe0f\U00011000-\U00011fff\U0001f000-\U0001faff"
)
_FROM_RIGHT = "\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc"
_UNSPACED = "\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u1a20-\u1aaf"
_NEVER_SHOWN = (
    "\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\xad\u202a-\u202e\u2060-\u206f\ufdd0-\ufdef\ufeff\ufff9-\ufffb\ufffe\uffff"
)
_NEEDS_CONTROLS = re.compile(f"[{_NEVER_SHOWN}\u061c\u180e\u200b-\u200f]")
_CONTROLS = re.compile(
    f"\x1b\\[[0-9;?]*[A-Za-z]|[{_NEVER_SHOWN}]|(?<![{_JOINED}])[\u180e\u200c\u200d]|(?<![{_UNSPACED}])\u200b"
    f"|(?<![{_FROM_RIGHT}])[\u061c\u200e\u200f](?![{_FROM_RIGHT}])"
)


@dataclass(frozen=True)
class Controls:
    """Remove control characters, NUL, byte order marks, zero-width characters and terminal colour codes.

    Line breaks and tabs stay. Joiners, zero-width spaces and direction marks stay in emoji and in the scripts that need
    them.
    """

    def edit(self, text: str) -> str:
        """The text without control characters."""
        return _CONTROLS.sub("", text) if _NEEDS_CONTROLS.search(text) else text


# ---- traditional


@dataclass(frozen=True)
class Traditional:
    """Replace traditional Chinese characters with simplified ones.

    Attributes:
        conversion: openCC conversion: t2s, or tw2sp and hk2s, which also know the words of Taiwan and Hong Kong.
    """

    conversion: str = "t2s"

    def edit(self, text: str) -> str:
        """The text in simplified characters.

        Raises:
            UserError: openCC is not installed, or has no such conversion.
        """
        simplified: str = _opencc(self.conversion).convert(text)
        return simplified


@cache
def _opencc(conversion: str) -> Any:
    try:
        import opencc
    except ImportError as error:
        raise UserError('filter traditional needs opencc: pip install "babyllm[corpus]"') from error
    try:
        return opencc.OpenCC(conversion)
    except Exception as error:  # OpenCC passes on the exceptions of its C++ code
        raise UserError(f"--traditional.conversion={conversion}: OpenCC has no such conversion; try t2s") from error


# ---- whitespace

_WIDE_SPACES = "\xa0\u1680\u2000-\u200a\u202f\u205f\u3000"
_UNTIDY = re.compile(f"[\r\x0b\x0c\x85\u2028\u2029{_WIDE_SPACES}]")
_UNTIDY_PAIRS = ("  ", " \t", "\t ", "\t\t", " \n", "\t\n", "\n\n\n")
_BREAK = re.compile("[\x0b\x0c\x85\u2028\u2029]")
_INDENT = re.compile(f"^[ \t{_WIDE_SPACES}]*[{_WIDE_SPACES}][ \t{_WIDE_SPACES}]*", re.MULTILINE)
_WIDE_SPACE = re.compile(f"[{_WIDE_SPACES}]")
_GAP = re.compile("(?<=\\S)([ \t])[ \t]+")
_LINE_END = re.compile("(?<![ \t])[ \t]+(?=\n)")
_EMPTY_LINES = re.compile("\n{3,}")


@dataclass(frozen=True)
class Whitespace:
    r"""Normalise whitespace: one kind of space and line break (\n), single spaces, at most one empty line in a row.

    The ends of lines and of the text lose theirs. Indentation by ordinary spaces and tabs stays (lists); wide spaces
    that indent Chinese paragraphs are removed. In code and tables only the kind of line break changes, and the kind of
    spaces that indent.
    """

    def edit(self, text: str) -> str:
        """The text with normalised whitespace."""
        is_tidy = not any(pair in text for pair in _UNTIDY_PAIRS) and not _UNTIDY.search(text)
        if is_tidy and text[:1] not in (" ", "\t"):
            return text.strip()
        if "\r" in text:
            text = text.replace("\r\n", "\n").replace("\r", "\n")
        return in_prose(text, _tidy, _indented_by_spaces).strip("\n")


def _tidy(text: str) -> str:
    text = _INDENT.sub("", _BREAK.sub("\n", text))
    text = _GAP.sub(r"\1", _WIDE_SPACE.sub(" ", text))
    return _EMPTY_LINES.sub("\n\n", _LINE_END.sub("", text)).strip()


def _indented_by_spaces(code: str) -> str:
    if not _WIDE_SPACE.search(code):
        return code
    return _INDENT.sub(lambda found: _WIDE_SPACE.sub(" ", found[0].replace("\u3000", "  ")), code)
