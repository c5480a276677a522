"""Dumps of wikis: the articles of a MediaWiki export in XML, page by page.

blocks -> <page> ... </page> -> title, namespace, redirect, last revision -> plain_text -> Document

A page never holds the marks of another one, because the text in it is escaped. So a page that is broken costs itself
alone. A dump in bz2 of many streams, each of which begins with a page, can be read from any stream on.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from urllib.parse import quote
from xml.etree import ElementTree

from babyllm.documents import Document
from babyllm.text.readers.decoding.compressed import Damaged, members_from, next_member
from babyllm.text.readers.decoding.streams import EXCERPT_BYTES, blocks
from babyllm.text.readers.formats.document_fields import Fields
from babyllm.text.readers.formats.wiki_markup import plain_text
from babyllm.text.readers.records import CUT_OFF, TOO_LONG, BadRecord, ReadConfig, Rejected, Source, rejected

BEGIN, END = b"<page>", b"</page>"
STREAM = b"  <page>"  # the beginning of each stream of a dump in many streams
MAX_HEAD = 1 << 20  # bytes in which a dump says what it is
NO_DUMP = "XML that is not a dump of a wiki"
FILES_AND_CATEGORIES = ("6", "14")
ALWAYS_DROPPED = ("file", "image", "media", "category")


@dataclass(frozen=True)
class _Site:
    """What a dump says about its wiki.

    Attributes:
        address: beginning of the addresses of its pages; empty if unknown.
        dropped: names of the namespaces of files and categories, in lower case.
        others: names of all namespaces but that of articles.
    """

    address: str
    dropped: frozenset[str]
    others: frozenset[str]


def read_wiki(source: Source, config: ReadConfig, fields: Fields) -> Iterator[Document | Rejected]:
    """The articles of a dump. Redirects, pages of other namespaces and other things than wikitext are counted."""
    site = _site(source)
    if site is None:
        if not source.start:
            yield rejected(source.name, NO_DUMP)
        return
    for item in _pages_of(source, config.max_record_bytes):
        if isinstance(item, Rejected):
            yield item
            continue
        offset, raw, fault = item
        try:
            if fault:
                raise BadRecord(fault)
            document = _document(raw, f"{source.name}:{offset}", source, config, fields, site)
            if document:
                yield document
        except BadRecord as error:
            yield rejected(f"{source.name}:{offset}", error, raw)


def _document(
    raw: bytes, place: str, source: Source, config: ReadConfig, fields: Fields, site: _Site
) -> Document | None:
    try:
        page = ElementTree.fromstring(raw)
    except (ElementTree.ParseError, ValueError):
        raise BadRecord("not a valid page of a wiki") from None
    title = (page.findtext("title") or "").strip()
    revisions = page.findall("revision")
    prefix = title.partition(":")[0].lower() if ":" in title else ""
    namespace = page.findtext("ns", "1" if prefix in site.others else "0").strip()
    if namespace != "0":
        fields.note("pages of a wiki left out: not articles")
    elif page.find("redirect") is not None:
        fields.note("pages of a wiki left out: redirects")
    elif not revisions or revisions[-1].findtext("model", "wikitext") != "wikitext":
        fields.note("pages of a wiki left out: no wikitext")
    else:
        text = plain_text(revisions[-1].findtext("text") or "", config.variant, site.dropped)
        address = site.address + quote(title.replace(" ", "_"), safe="/:(),'!*@;") if site.address else ""
        number = page.findtext("id", "").strip()
        record = {"title": title, "text": text, "url": address}
        return fields.document(record, f"{source.name}:{number}" if number else place)
    return None


def _site(source: Source) -> _Site | None:
    """What the beginning of a dump says; None if it is not a dump."""
    head = b""
    try:
        for block in blocks(replace(source, damage=None)):
            head += block
            if b"</siteinfo>" in head or BEGIN in head or len(head) > MAX_HEAD:
                break
    except Damaged:
        pass
    if b"<mediawiki" not in head[:MAX_HEAD]:
        return None
    text = head.partition(BEGIN)[0].decode("utf-8", "replace")
    names = re.findall(r'<namespace key="(-?\d+)"[^>]*>([^<]+)</namespace>', text)
    dropped = [name.lower() for key, name in names if key in FILES_AND_CATEGORIES]
    base = re.search(r"<base>(https?://[^<]+)/[^/<]*</base>", text)
    others = frozenset(name.lower() for _, name in names)
    return _Site(f"{base[1]}/" if base else "", frozenset((*dropped, *ALWAYS_DROPPED)), others)


# ---- pages in the stream

Page = tuple[int, bytes, str]  # offset, bytes, and the reason why it cannot be read if that is known


def _pages_of(source: Source, limit: int) -> Iterator[Page | Rejected]:
    """The pages of a source; after damage in bz2, those of the streams after it too."""
    if source.compression != "bz2":
        last = sys.maxsize if source.end is None else source.end
        yield from _pages(blocks(source, source.start), source.start, last, limit)
        return
    end = source.end
    start: int | None = next_member(source.path, "bz2", source.start, STREAM, end) if source.start else 0
    while start is not None:
        try:
            parts = (
                blocks(source) if end is None and not start else members_from(source.path, "bz2", start, end, STREAM)
            )
            yield from _pages(parts, 0, sys.maxsize, limit)
            return
        except Damaged as error:
            yield rejected(source.name, error.reason, error)
            start = next_member(source.path, "bz2", max(error.place, start + 1), STREAM, end)


def _pages(parts: Iterator[bytes], base: int, end: int, limit: int) -> Iterator[Page]:
    """The pages that begin before `end` in a stream whose first byte is at `base`."""
    buffer = b""
    for part in parts:
        buffer += part
        at = 0
        while (begin := buffer.find(BEGIN, at)) >= 0:
            if base + begin >= end:
                return
            stop = buffer.find(END, begin)
            if stop < 0:
                break
            at = stop + len(END)
            page = buffer[begin:at]
            yield (base + begin, page, "") if len(page) <= limit else (base + begin, page[:EXCERPT_BYTES], TOO_LONG)
        at = begin if begin >= 0 else max(at, len(buffer) - len(BEGIN) + 1)
        if begin >= 0 and len(buffer) - begin > limit:
            yield base + begin, buffer[begin : begin + EXCERPT_BYTES], TOO_LONG
            at = len(buffer) - len(BEGIN) + 1
        base, buffer = base + at, buffer[at:]
        if base >= end and not buffer.startswith(BEGIN):
            return
    if buffer.startswith(BEGIN) and base < end:
        yield base, buffer[:EXCERPT_BYTES], CUT_OFF
