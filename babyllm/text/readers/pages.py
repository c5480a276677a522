"""Files that are one document: plain text, Markdown, and HTML, of which the main text is taken."""

from __future__ import annotations

import codecs
import logging
import re
from collections.abc import Iterator
from functools import cache
from html import unescape
from typing import Any

from babyllm.errors import UserError
from babyllm.text.documents import Document
from babyllm.text.readers.fields import Fields
from babyllm.text.readers.records import BadRecord, ReadConfig, Rejected, Source, rejected
from babyllm.text.readers.streams import decoded, looks_chinese, whole

DECLARED = re.compile(rb"""charset\s*=\s*["']?\s*([\w-]+)""", re.IGNORECASE)
LINK = re.compile(r"<(?:link|meta)\b[^>]*>", re.IGNORECASE)
CANONICAL = re.compile(r"""\b(?:rel\s*=\s*["']?canonical|property\s*=\s*["']?og:url)\b""", re.IGNORECASE)
ADDRESS = re.compile(r"""\b(?:href|content)\s*=\s*["']?(https?://[^\s"'<>]+)""", re.IGNORECASE)
LINKS = 1 << 16  # characters of a page in which its own address is looked for
HEAD = 4096  # bytes of a page in which its encoding is declared


def read_text(source: Source, config: ReadConfig, fields: Fields) -> Iterator[Document | Rejected]:
    """The document that the file is."""
    data = b""
    try:
        data = whole(source, config.max_record_bytes)
        yield fields.plain(decoded(data, config), source.name)
    except BadRecord as error:
        yield rejected(source.name, error, data)


def read_html(source: Source, config: ReadConfig, fields: Fields) -> Iterator[Document | Rejected]:
    """The main text of the page that the file is."""
    data = b""
    try:
        data = whole(source, config.max_record_bytes)
        declared = None if config.encoding == "auto" else config.encoding
        page = page_text(data, declared)
        yield fields.plain(main_text(page), source.name, url=canonical_url(page))
    except BadRecord as error:
        yield rejected(source.name, error, data)


def page_text(data: bytes, declared: str | None = None) -> str:
    """A page as text; as in browsers, a byte that is invalid in its encoding spoils one character, not the page.

    Args:
        data: the page as it is stored.
        declared: encoding, where something outside of the page tells it.
    """
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16", "replace")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        pass
    found = DECLARED.search(data[:HEAD])
    encoding = declared or (found[1].decode("ascii", "replace") if found else None)
    if encoding is None:
        encoding = "gb18030" if looks_chinese(data) else "utf-8"
    # What calls itself GB2312 holds characters of its supersets.
    encoding = "gb18030" if encoding.lower() in ("gb2312", "gbk") else encoding
    try:
        return data.decode(encoding, "replace")
    except LookupError:
        return data.decode("utf-8", "replace")


def canonical_url(page: str) -> str:
    """The address that a page gives as its own; empty if it gives none."""
    for link in LINK.findall(page[:LINKS]):
        if CANONICAL.search(link) and (address := ADDRESS.search(link)):
            return unescape(address[1])
    return ""


def main_text(page: str) -> str:
    """What a page says, without its menus, comments and advertisements.

    Raises:
        BadRecord: there is nothing of the kind.
        UserError: trafilatura is not installed.
    """
    try:
        text = _trafilatura().extract(page, include_comments=False)
    except (ArithmeticError, AssertionError, AttributeError, LookupError, RecursionError, TypeError, ValueError):
        text = None  # of broken pages, some of which make it stumble
    if not text:
        raise BadRecord("no main text found in the page")
    return str(text)


@cache
def _trafilatura() -> Any:
    try:
        import trafilatura
    except ImportError as error:
        raise UserError(f'HTML needs trafilatura ({error}); pip install "babyllm[corpus]"') from error
    for name in ("trafilatura", "htmldate", "justext"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # they complain about pages, which is our part
    return trafilatura
