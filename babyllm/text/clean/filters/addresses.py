"""Filters that remove addresses from texts: URLs and e-mail addresses.

What only serves an address is removed with it: the brackets and the target of a Markdown link, angle brackets, and
parentheses that contain nothing else. The text of a link stays, and so does every address in code.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from babyllm.text.clean.syntax.characters import HAN
from babyllm.text.clean.syntax.code import in_prose

_TOP_LEVEL = (
    "中国|中國|公司|网络|網絡|网址|香港|台湾|台灣|澳门|新加坡|在线|中文网|集团|商城|商店|企业|网店|移动|政务|公益|рф|бел|укр|срб|"
    "한국|भारत|ไทย|みんな|コム"
)
_SCHEME = r"(?:https?|ftp)://"
_PATH = r"[\w.~:/?#\[\]@!$&'()*+,;=%-]"
_ADDRESS = (
    rf"(?:{_SCHEME}|\bwww\.){_PATH}+"
    rf"|{_SCHEME}(?=[^\s/]*[^\x00-\x7f])(?:[A-Za-z0-9\u00a1-\u02af\u0370-\u1fff\u3040-\u30ff{HAN}\uac00-\ud7a3-]{{1,63}}\.)+"
    rf"(?:[A-Za-z]{{2,24}}|{_TOP_LEVEL})(?![A-Za-z])(?:[:/?#]{_PATH}*)?"
)
_URL = re.compile(_ADDRESS, re.ASCII | re.IGNORECASE)
_TARGET = r"""\(\s*<?(?:(?:https?|ftp)://|www\.|//)(?:[^\s()<>]|\([^\s()]*\))*>?(?:\s+(?:"[^"\n]*"|'[^'\n]*'))?\s*\)"""
_LINK = re.compile(rf"!?\[((?:[^\[\]\n]|\[[^\[\]\n]*\]){{0,500}})\]{_TARGET}", re.IGNORECASE)
_TITLE = r"""(?:[ \t]+(?:"[^"\n]*"|'[^'\n]*'|\([^()\n]*\)))?"""
_DEFINITION = re.compile(
    rf"^[ ]{{0,3}}\[[^\[\]\n]{{1,200}}\]:[ \t]*<?{_SCHEME}[^\s<>]+>?{_TITLE}[ \t]*(?:\n|\Z)",
    re.IGNORECASE | re.MULTILINE,
)
_ENDS = ".,:;!?'\"*(["  # marks that end a sentence rather than an address
_BRACKETS = {"<": ">", "(": ")", "（": "）", "[": "]", "【": "】", "《": "》", "〈": "〉", "「": "」"}
_EMAIL = re.compile(r"(?<![\w.%+-])[\w.%+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}(?![A-Za-z0-9])", re.ASCII)


@dataclass(frozen=True)
class Urls:
    """Remove URLs from the text. The text of a Markdown link stays, and so do URLs in code.

    Attributes:
        replace: text that replaces a URL.
    """

    replace: str = ""

    def edit(self, text: str) -> str:
        """The text without URLs."""
        return (
            in_prose(text, self._without) if "://" in text or "www." in text or "WWW." in text or "](" in text else text
        )

    def _without(self, text: str) -> str:
        if "](" in text:
            # Twice, because the text of a link may be an image, which the first pass leaves.
            text = _LINK.sub(self._link, _LINK.sub(self._link, text))
        if "]:" in text and not self.replace:
            text = _DEFINITION.sub("", text)
        return _replaced(text, _URL, self.replace)

    def _link(self, found: re.Match[str]) -> str:
        return f"[{found[1]}]({self.replace})" if self.replace else found[1]


@dataclass(frozen=True)
class Emails:
    """Remove e-mail addresses from the text; those in code stay.

    Attributes:
        replace: text that replaces an address.
    """

    replace: str = ""

    def edit(self, text: str) -> str:
        """The text without e-mail addresses."""
        return in_prose(text, self._without) if "@" in text else text

    def _without(self, text: str) -> str:
        return _replaced(text, _EMAIL, self.replace)


def _replaced(text: str, pattern: re.Pattern[str], replacement: str) -> str:
    """The text with addresses replaced.

    Brackets around an address alone are removed with it: angle brackets always, others if there is no replacement.
    """
    pieces, end = [], 0
    for found in pattern.finditer(text):
        start, stop = found.start(), _address_end(text, found.start(), found.end())
        if start < end or stop <= start:
            continue
        before, after = text[start - 1 : start], text[stop : stop + 1]
        if before and _BRACKETS.get(before) == after and (before == "<" or not replacement):
            start, stop = start - 1, stop + 1
        pieces += [text[end : max(end, start)], replacement]
        end = stop
    return "".join([*pieces, text[end:]]) if pieces else text


def _address_end(text: str, start: int, end: int) -> int:
    """The end of an address, before marks that end its sentence and brackets that were opened outside of it."""
    while end > start and (text[end - 1] in _ENDS or _is_unopened(text, start, end)):
        end -= 1
    return end


def _is_unopened(text: str, start: int, end: int) -> bool:
    opening = {")": "(", "]": "["}.get(text[end - 1])
    return opening is not None and text.count(text[end - 1], start, end) > text.count(opening, start, end)
