"""Files that are one document: plain text, Markdown, and the main text of HTML."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from functools import cache
from html import unescape
from typing import Any

from babyllm.documents import Document
from babyllm.errors import UserError
from babyllm.text.readers.decoding.encodings import UNKNOWN, declared, decoded, is_wide, recognised
from babyllm.text.readers.decoding.streams import whole
from babyllm.text.readers.formats.document_fields import Fields
from babyllm.text.readers.records import BadRecord, ReadConfig, Rejected, Source, rejected

DECLARED = re.compile(rb"""charset\s*=\s*["']?\s*([\w-]+)""", re.IGNORECASE)
LINK = re.compile(r"<(?:link|meta)\b[^>]*>", re.IGNORECASE)
CANONICAL = re.compile(r"""\b(?:rel\s*=\s*["']?canonical|property\s*=\s*["']?og:url)\b""", re.IGNORECASE)
ADDRESS = re.compile(r"""\b(?:href|content)\s*=\s*["']?(https?://[^\s"'<>]+)""", re.IGNORECASE)
LINKS = 1 << 16  # characters of a page in which its own address is looked for
HEAD = 4096  # bytes of a page in which its encoding is declared


def read_text(source: Source, config: ReadConfig, fields: Fields) -> Iterator[Document | Rejected]:
    """The whole file as one document."""
    yield from _documents(source, config, lambda data: fields.plain(decoded(data, config), source.name))


def read_html(source: Source, config: ReadConfig, fields: Fields) -> Iterator[Document | Rejected]:
    """The main text of a page as one document."""
    label = None if config.encoding == "auto" else config.encoding

    def document(data: bytes) -> Document:
        page = page_text(data, label)
        return fields.plain(main_text(page), source.name, url=canonical_url(page))

    yield from _documents(source, config, document)


def _documents(source: Source, config: ReadConfig, make: Callable[[bytes], Document]) -> Iterator[Document | Rejected]:
    data = b""
    try:
        for data in whole(source, config.max_record_bytes):
            yield make(data)
    except BadRecord as error:
        yield rejected(source.name, error, data)


def page_text(data: bytes, label: str | None = None) -> str:
    """A page as text; as in browsers, an invalid byte costs one character and not the page.

    Args:
        data: bytes of the page as stored.
        label: name of its encoding from outside of the page, such as a header; None if there is none.

    Raises:
        BadRecord: the encoding is neither declared nor recognised.
    """
    encoding = recognised([data])
    if encoding == "utf-8" or (encoding and is_wide(encoding)):
        return data.decode(encoding, "replace").removeprefix("\ufeff")
    found = DECLARED.search(data[:HEAD])
    labels = [label, found[1].decode("ascii", "replace") if found else None]
    named = next((name for name in map(declared, filter(None, labels)) if name), None)
    # Two labels are often wrong: UTF-8 on a page that is not valid UTF-8, and Latin-1, the default of many servers.
    chosen = encoding if encoding and named in (None, "utf-8", "cp1252") else named
    if chosen is None:
        raise BadRecord(UNKNOWN)
    return data.decode(chosen, "replace")


def canonical_url(page: str) -> str:
    """The URL that a page declares as its own; empty if it declares none."""
    for link in LINK.findall(page[:LINKS]):
        if CANONICAL.search(link) and (address := ADDRESS.search(link)):
            return unescape(address[1])
    return ""


def main_text(page: str) -> str:
    """The main text of a page, without menus, comments and advertisements.

    Raises:
        BadRecord: the page has no main text.
        UserError: trafilatura is not installed.
    """
    try:
        text = _trafilatura().extract(page, include_comments=False)
    except (ArithmeticError, AssertionError, AttributeError, LookupError, RecursionError, TypeError, ValueError):
        text = None  # trafilatura fails on some broken pages
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
        logging.getLogger(name).setLevel(logging.CRITICAL)  # their warnings about pages are reported here as rejections
    return trafilatura
