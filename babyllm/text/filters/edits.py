"""Filters that mend a text or take pieces out of it: encoding, markup, addresses, characters that show nothing, spaces.

Each begins with a cheap test for need, because most texts need nothing. The cheap tests are searches for one set of
characters or one string: a pattern of alternatives takes several times as long.
"""

from __future__ import annotations

import html
import re
import unicodedata
from dataclasses import dataclass
from functools import cache
from typing import Any

from babyllm.errors import UserError

# ---- unicode

# The encodings that UTF-8 is most often read in by mistake.
_ENCODINGS = (
    *("latin-1", "cp1250", "cp1251", "cp1252", "cp1253", "cp1254", "cp1257"),
    *("iso8859-2", "mac-roman", "cp437"),
)


def _readings(first: int, last: int) -> str:
    """What the bytes from `first` to `last` are taken for, as the inside of a regular expression's brackets."""
    raw = bytes(range(first, last + 1))
    return re.escape("".join(sorted({c for name in _ENCODINGS for c in raw.decode(name, "ignore")})))


# Dashes, quotes and ellipses follow each other in good text, so they do not count as the head of a misread character.
_HEADS = re.sub("[\u2000-\uffff]", "", _readings(0xC2, 0xF4))
_RADICALS = {code: unicodedata.normalize("NFKC", chr(code)) for code in (0x2E9F, 0x2EF3, *range(0x2F00, 0x2FD6))}
_C1 = "\x80-\x84\x86-\x9f"
_MISREAD = re.compile(f"[{_HEADS}{_C1}](?:(?<=[{_HEADS}])[{_readings(0x80, 0xBF)}]|(?<=[{_C1}]))")
_RADICAL = re.compile("[\u2e9f\u2ef3\u2f00-\u2fd5]")


@dataclass(frozen=True)
class Unicode:
    """Repair text that was decoded wrongly (cafÃ© -> café), and bring it to Unicode's composed form NFC.

    Radicals that stand for the character of the same shape (⼈ -> 人), as PDFs have them, become that character.
    Full-width forms and punctuation stay as they are.
    """

    def edit(self, text: str) -> str:
        """The repaired text."""
        if text.isascii():
            return text
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

_JOINED = "\u0600-\u109f\u2600-\u27bf\ufe0f\U0001f000-\U0001faff"  # scripts and emoji in which joiners mean something
_NEVER_SHOWN = (
    "\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f"
    "\ufdd0-\ufdef\ufeff\ufff9-\ufffb\ufffe\uffff"
)
_NEEDS_CONTROLS = re.compile(f"[{_NEVER_SHOWN}\u200c\u200d]")
_CONTROLS = re.compile(f"\x1b\\[[0-9;]*[A-Za-z]|[{_NEVER_SHOWN}]|(?<![{_JOINED}])[\u200c\u200d]")


@dataclass(frozen=True)
class Controls:
    """Remove control characters, NUL, byte order marks, zero-width characters, colours of terminals.

    Line breaks and tabs stay, and so do joiners within emoji and in scripts that need them.
    """

    def edit(self, text: str) -> str:
        """The text without them."""
        return _CONTROLS.sub("", text) if _NEEDS_CONTROLS.search(text) else text


# ---- html

_BLOCKS = (
    "address|article|aside|blockquote|body|br|center|dd|div|dl|dt|fieldset|figcaption|figure|footer|form|h[1-6]|head|"
    "header|hr|html|li|main|nav|ol|option|p|pre|section|select|table|tbody|tfoot|thead|title|tr|ul"
)
_INLINE = (
    "!doctype|a|abbr|acronym|b|bdi|bdo|big|button|canvas|cite|code|del|dfn|em|embed|font|i|iframe|img|input|ins|kbd|"
    "label|link|map|mark|meta|nobr|noscript|object|param|picture|q|rp|rt|ruby|s|samp|script|small|source|span|strike|"
    "strong|style|sub|sup|svg|time|tt|u|var|video|wbr"
)
_UNSEEN = (
    (re.compile("<!--"), re.compile("-->")),
    (re.compile(r"<script\b[^<>]*>", re.IGNORECASE), re.compile(r"</script\s*>", re.IGNORECASE)),
    (re.compile(r"<style\b[^<>]*>", re.IGNORECASE), re.compile(r"</style\s*>", re.IGNORECASE)),
)
_TAG = re.compile(rf"</?(?:(?P<block>{_BLOCKS})|(?P<cell>td|th)|{_INLINE})(?:[\s/][^<>]*)?>", re.IGNORECASE)
_ENTITY = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")


@dataclass(frozen=True)
class Html:
    """Remove HTML tags that were left in the text and resolve entities (&amp; -> &).

    Tags of blocks become line breaks. Only what bears the name of an HTML tag counts as one: `<unk>` and `a < b` stay.
    """

    def edit(self, text: str) -> str:
        """The text without markup."""
        if "&" in text:
            for _ in range(3):  # &amp;amp;nbsp; was escaped three times; more is nobody's accident
                if not _ENTITY.search(text):
                    break
                text = _ENTITY.sub(lambda found: html.unescape(found[0]), text)
        if "<" in text:
            for opening, closing in _UNSEEN:
                text = _without(text, opening, closing)
            text = _TAG.sub(_tag_gap, text)
        return text


def _without(text: str, opening: re.Pattern[str], closing: re.Pattern[str]) -> str:
    """The text without what stands between two marks; not by one pattern, which takes long where many are unclosed."""
    pieces, end = [], 0
    while (start := opening.search(text, end)) and (stop := closing.search(text, start.end())):
        pieces.append(text[end : start.start()])
        end = stop.end()
    return "".join([*pieces, text[end:]])


def _tag_gap(tag: re.Match[str]) -> str:
    return "\n" if tag["block"] else " " if tag["cell"] else ""


# ---- urls, emails

# The last character is none that ends a sentence, so that the full stop behind an address stays.
_URL = re.compile(
    r"(?:(?:https?|ftp)://|\bwww\.)[\w.~:/?#\[\]@!$&'()*+,;=%-]*[\w~/#@$&*+=%-]", re.ASCII | re.IGNORECASE
)
_EMAIL = re.compile(r"(?<![\w.%+-])[\w.%+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}(?![A-Za-z0-9])", re.ASCII)


@dataclass(frozen=True)
class Urls:
    """Take addresses of the web out of the text.

    Attributes:
        replace: what stands in place of a URL.
    """

    replace: str = ""

    def edit(self, text: str) -> str:
        """The text without URLs."""
        if "://" in text or "www." in text or "WWW." in text:
            return _URL.sub(lambda _: self.replace, text)
        return text


@dataclass(frozen=True)
class Emails:
    """Take e-mail addresses out of the text.

    Attributes:
        replace: what stands in place of an address.
    """

    replace: str = ""

    def edit(self, text: str) -> str:
        """The text without e-mail addresses."""
        return _EMAIL.sub(lambda _: self.replace, text) if "@" in text else text


# ---- traditional


@dataclass(frozen=True)
class Traditional:
    """Write traditional Chinese characters as simplified ones.

    Attributes:
        conversion: of OpenCC: t2s, or tw2sp and hk2s, which also know the words of Taiwan and Hong Kong.
    """

    conversion: str = "t2s"

    def edit(self, text: str) -> str:
        """The text in simplified characters."""
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
    except Exception as error:  # the library raises whatever its C++ part does
        raise UserError(f"--traditional.conversion={conversion}: OpenCC has no such conversion; try t2s") from error


# ---- whitespace

_WIDE_SPACES = "\xa0\u1680\u2000-\u200a\u202f\u205f\u3000"
_UNTIDY = re.compile(f"[\r\x0b\x0c\x85\u2028\u2029{_WIDE_SPACES}]")
_UNTIDY_PAIRS = ("  ", " \t", "\t ", "\t\t", " \n", "\t\n", "\n\n\n")
_BREAK = re.compile("\r\n?|[\x0b\x0c\x85\u2028\u2029]")
_CHINESE_INDENT = re.compile(f"^[ \t{_WIDE_SPACES}]*[{_WIDE_SPACES}][ \t{_WIDE_SPACES}]*", re.MULTILINE)
_WIDE_SPACE = re.compile(f"[{_WIDE_SPACES}]")
_GAP = re.compile("(?<=\\S)([ \t])[ \t]+")
_LINE_END = re.compile("(?<![ \t])[ \t]+(?=\n)")
_EMPTY_LINES = re.compile("\n{3,}")


@dataclass(frozen=True)
class Whitespace:
    r"""One kind of space and line break (\n), one space between words, at most one empty line, no spaces at the ends.

    Indentation by ordinary spaces and tabs stays (code, lists), that of Chinese paragraphs by wide spaces goes.
    """

    def edit(self, text: str) -> str:
        """The tidy text."""
        if not any(pair in text for pair in _UNTIDY_PAIRS) and not _UNTIDY.search(text):
            return text.strip()
        text = _CHINESE_INDENT.sub("", _BREAK.sub("\n", text))
        text = _GAP.sub(r"\1", _WIDE_SPACE.sub(" ", text))
        return _EMPTY_LINES.sub("\n\n", _LINE_END.sub("", text)).strip()
