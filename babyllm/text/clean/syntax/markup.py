"""The filter that removes HTML left in texts.

    text -> is it markup? -- yes -> escape every `<` that is not a tag -> html.parser -> text, entities resolved
                          -- no  -> entities resolved, all else stays

A text is markup if it holds what only a page or a piece of one holds: a document type, tags with attributes, or tags
of blocks that are opened and closed around text. A lone `<`, or a tag mentioned in prose, is not enough.
"""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from html.parser import HTMLParser

from babyllm.text.clean.syntax.code import in_prose, with_code, without_code


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_BLOCKS = _names(
    "address article aside blockquote body br caption center dd details dialog div dl dt fieldset figcaption figure "
    "footer form h1 h2 h3 h4 h5 h6 head header hr html legend li main nav ol option p pre section select table tbody "
    "textarea tfoot thead title tr ul"
)
_CELLS = frozenset(("td", "th"))
_STYLES = _names("b big center del em font i ins small span strike strong sub sup u")
_INLINE = _STYLES | _names(
    "a abbr acronym audio base bdi bdo button canvas cite code col colgroup dfn embed iframe img input kbd label link "
    "map mark meta nobr noscript object param picture q rp rt ruby s samp script source style svg time tt var video wbr"
)
_VOID = _names("base br col embed hr img input link meta param source wbr")
_OPEN_ENDED = _names("body colgroup dd dt head html li option p tbody td tfoot th thead tr")
_UNSEEN = frozenset(("script", "style"))
_RAW = _UNSEEN | {"iframe", "textarea", "title"}  # within these a parser looks only for their end

_ATTRIBUTE = (
    r"""[A-Za-z_:@][\w:.-]*\s*=\s*(?:"[^"<]*"|'[^'<]*'|[^\s"'<>=`]+)|(?:async|autoplay|checked|controls|defer|disabled|"""
    "hidden|ismap|loop|multiple|muted|noshade|nowrap|open|readonly|required|reversed|selected)"
)
_TAG = re.compile(
    rf"<(?P<close>/?)(?P<name>[A-Za-z][A-Za-z0-9]*)(?P<attributes>(?:\s+(?:{_ATTRIBUTE})(?=[\s/>]))*)\s*/?>"
    r"|(?P<comment><!--)|(?P<doctype><!doctype\b[^<>]*>)",
    re.IGNORECASE | re.ASCII,
)
_CLOSING = re.compile("</([A-Za-z][A-Za-z0-9]*)>")
_ENTITY = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
_BARE_AMPERSAND = re.compile(f"&(?!{_ENTITY.pattern[1:]})")
_BREAK = re.compile(r"(?<![\s`'\"“‘])<br ?/?>(?![ `'\"”’])", re.IGNORECASE)
_REACH = 4000  # characters within which a tag must be closed to count as evidence, which bounds the time
_MANY_BREAKS = 3  # one or two may be mentioned in prose


@dataclass(frozen=True)
class Html:
    """Remove the tags of texts that are markup, and resolve entities once (&amp; -> &).

    Tags of blocks become line breaks. Comparisons (a < b), tags that are not HTML (<unk>) and code within Markdown
    stay. In a text that is not markup all tags stay, and in code the entities too.
    """

    def edit(self, text: str) -> str:
        """The text without markup."""
        if "<" in text:
            masked, pieces = without_code(text, markup=True)
            if is_markup(masked):
                return with_code(_text_of(masked), pieces, text)
        return in_prose(text, _resolved) if "&" in text else text


def _resolved(text: str) -> str:
    return _ENTITY.sub(lambda found: html.unescape(found[0]), text)


# ---- is it markup?


def is_markup(text: str) -> bool:
    """Whether a text is a page or a piece of one, rather than prose or code with a `<` in it."""
    if len(_BREAK.findall(text)) >= _MANY_BREAKS:
        return True
    tags = [found for found in _TAG.finditer(text) if found["doctype"] or _is_known(found)]
    if any(found["doctype"] for found in tags):
        return True
    closed = Counter(name.lower() for name in _CLOSING.findall(text))
    n_known = sum(n for name, n in closed.items() if name in _BLOCKS or name in _CELLS or name in _INLINE)
    if closed.total() - n_known > n_known:
        return False  # XML, some of whose tags have names of HTML
    return any(_is_evidence(found, closed) for found in tags if not found["close"])


def _is_known(found: re.Match[str]) -> bool:
    name = (found["name"] or "").lower()
    return name in _BLOCKS or name in _CELLS or name in _INLINE


def _is_evidence(found: re.Match[str], closed: Counter[str]) -> bool:
    """Whether an opening tag belongs to a page: it has attributes, or is placed and closed as in a page."""
    name, text = found["name"].lower(), found.string
    if found["attributes"]:
        return name in _VOID or name in _OPEN_ENDED or closed[name] > 0
    if not closed[name]:
        return False
    if name in _UNSEEN:
        return True
    end = text.find(f"</{found['name']}>", found.end(), found.end() + _REACH)
    if end <= found.end() or not text[found.end() : end].strip():
        return False
    if name in _STYLES:
        return not text[found.end()].isspace() and not text[end - 1].isspace()
    follower = text[end + len(name) + 3 : end + len(name) + 5]
    return (
        (name in _BLOCKS or name in _CELLS)
        and _begins_block(text, found.start())
        and not re.match(" [^ <\n]", follower)
    )


def _begins_block(text: str, start: int) -> bool:
    before = text[max(0, start - 40) : start].rstrip(" \t")
    return not before or before[-1] in '\n>。！？.!?;；”"）)…'


# ---- the text of markup


class _Reader(HTMLParser):
    """Collects the text of markup, with a line break for each tag of a block and a space for each tag of a cell."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.pieces: list[str] = []
        self._unseen = ""

    def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        self.pieces.append(_gap(tag))
        self._unseen = tag if tag in _UNSEEN else ""

    def handle_endtag(self, tag: str) -> None:
        self.pieces.append(_gap(tag))
        self._unseen = ""

    def handle_startendtag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        self.pieces.append(_gap(tag))

    def handle_data(self, data: str) -> None:
        if not self._unseen:
            self.pieces.append(data)


def _gap(tag: str) -> str:
    return "\n" if tag in _BLOCKS else " " if tag in _CELLS else ""


def _text_of(text: str) -> str:
    reader = _Reader()
    reader.feed(_escaped(text))
    reader.close()
    return "".join(reader.pieces)


def _escaped(text: str) -> str:
    """The markup with every `<` escaped that begins no tag, comment or document type, and every `&` of no entity."""
    text = _BARE_AMPERSAND.sub("&amp;", text)
    found_all = list(_TAG.finditer(text))
    opened = {found["name"].lower() for found in found_all if found["name"] and not found["close"]}
    last_closing = {found["name"].lower(): found.start() for found in found_all if found["close"]}
    last_comment_end = text.rfind("-->")
    pieces, end = [], 0
    for found in found_all:
        if found.start() < end:
            continue
        pieces.append(text[end : found.start()].replace("<", "&lt;"))
        end = found.end()
        name = (found["name"] or "").lower()
        if found["comment"]:
            end = text.index("-->", found.end()) + 3 if found.end() <= last_comment_end else end
            pieces.append("" if found.end() <= last_comment_end else "&lt;!--")
        elif name in _RAW and not found["close"] and last_closing.get(name, -1) < found.start():
            continue  # an unclosed one would swallow what follows
        elif found["doctype"] or _counts(found, name, opened, last_closing):
            pieces.append(found[0])
        else:
            pieces.append(found[0].replace("<", "&lt;"))
    return "".join([*pieces, text[end:].replace("<", "&lt;")])


def _counts(found: re.Match[str], name: str, opened: set[str], closed: dict[str, int]) -> bool:
    """Whether a tag is one of HTML rather than a short name between comparison signs."""
    if name in _BLOCKS or name in _CELLS or name in _VOID:
        return True
    return name in _INLINE and (bool(found["attributes"]) or name in (opened if found["close"] else closed))
