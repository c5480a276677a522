"""Web archives: the pages of WARC files and the texts of WET files.

A record is a head of lines, an empty line, as many bytes as the head says, and two line breaks. Where that does not
hold the record is rejected and reading goes on at the next beginning of one.
"""

from __future__ import annotations

import io
import re
import zlib
from collections.abc import Iterator
from http.client import HTTPException, HTTPResponse

from babyllm.text.documents import Document
from babyllm.text.readers.fields import Fields
from babyllm.text.readers.pages import main_text, page_text
from babyllm.text.readers.records import CUT_OFF, TOO_LONG, BadRecord, ReadConfig, Rejected, Source, rejected
from babyllm.text.readers.streams import EXCERPT_BYTES, blocks

BEGIN = b"WARC/1."
GAP = b"\r\n\r\n"
MAX_HEAD = 1 << 16
LENGTH = re.compile(rb"^content-length:\s*(\d{1,18})\s*$", re.IGNORECASE | re.MULTILINE)
TARGET = re.compile(rb"^warc-target-uri:[ \t]*<?([^\s<>]+)", re.IGNORECASE | re.MULTILINE)
HEADER = re.compile(rb"^([\w-]+):[ \t]*([^\r\n]*)", re.MULTILINE)


def read_warc(source: Source, config: ReadConfig, fields: Fields) -> Iterator[Document | Rejected]:
    """The documents of an archive: HTML and plain text that servers answered with status 200, and texts made of such.

    Requests, descriptions, images and the like are passed over.
    """
    for offset, head, body, fault in _records(blocks(source), config.max_record_bytes):
        place = f"{source.name}:{offset}"
        try:
            if fault:
                raise BadRecord(fault)
            text = _content(head, body, config.max_record_bytes)
            if text is not None:
                yield fields.plain(text, place, url=_url(head))
        except BadRecord as error:
            yield rejected(place, error, head + GAP + body[:EXCERPT_BYTES])


def _content(head: bytes, body: bytes, limit: int) -> str | None:
    """The text of a record; None if it is of a kind that has none."""
    headers = {name.lower(): value.strip() for name, value in HEADER.findall(head)}
    kind, media = headers.get(b"warc-type", b"").lower(), headers.get(b"content-type", b"").decode("ascii", "replace")
    if kind == b"response" and media.startswith("application/http"):
        answer = _answer(body, limit)
        if answer is None:
            return None
        media, body = answer
    elif kind not in (b"conversion", b"resource"):
        return None
    if media.startswith(("text/html", "application/xhtml")):
        return main_text(page_text(body, _charset(media)))
    return page_text(body, _charset(media)) if media.startswith("text/plain") else None


def _url(head: bytes) -> str:
    """The address of the page in a record."""
    found = TARGET.search(head)
    return found[1].decode("utf-8", "replace") if found else ""


def _charset(media: str) -> str | None:
    found = re.search(r"charset=[\"']?([\w-]+)", media)
    return found[1] if found else None


class _Socket:
    """What `HTTPResponse` takes for a connection: a message that has arrived."""

    def __init__(self, message: bytes) -> None:
        self.stream = io.BytesIO(message)

    def makefile(self, mode: str) -> io.BytesIO:
        return self.stream


def _answer(message: bytes, limit: int) -> tuple[str, bytes] | None:
    """Media type and content of a server's answer; None unless its status is 200 and it is text."""
    socket = _Socket(message)
    response = HTTPResponse(socket)  # type: ignore[arg-type]
    try:
        response.begin()
        media = response.getheader("Content-Type", "text/html").lower()
        if response.status != 200 or not media.startswith(("text/html", "application/xhtml", "text/plain")):
            return None
        # Common Crawl stores the content unpacked below the headers that belonged to the packed one.
        is_chunked = response.getheader("Transfer-Encoding", "").lower() == "chunked"
        content = response.read() if is_chunked else socket.stream.read()
    except (HTTPException, ValueError, OSError):
        raise BadRecord("not a valid HTTP answer") from None
    if response.getheader("Content-Encoding", "") in ("gzip", "deflate"):
        content = _unpacked(content, limit)
    return media, content


def _unpacked(content: bytes, limit: int) -> bytes:
    for bits in (47, -15):  # gzip or zlib by their heads, or deflate without one
        unpacker = zlib.decompressobj(bits)
        try:
            content = unpacker.decompress(content, limit + 1)
        except zlib.error:
            continue
        if len(content) > limit:
            raise BadRecord(TOO_LONG)
        return content
    return content


# ---- records of the archive

Found = tuple[int, bytes, bytes, str]  # offset, head, body, and why it cannot be read if that is known


class _Window:
    """A stream of which a part is held: `data` from `at` on is what comes next."""

    def __init__(self, parts: Iterator[bytes]) -> None:
        self._parts, self._base, self.data, self.at = parts, 0, b"", 0

    @property
    def offset(self) -> int:
        return self._base + self.at

    def has(self, size: int) -> bool:
        """Hold the next `size` bytes, or all that are left."""
        while len(self.data) - self.at < size and (part := next(self._parts, b"")):
            self._base, self.data, self.at = self._base + self.at, self.data[self.at :] + part, 0
        return len(self.data) - self.at >= size

    def seek_record(self, start: int) -> None:
        """Go to the first beginning of a record behind `start`, or to the end."""
        self.at = start
        while (found := self.data.find(b"\n" + BEGIN, self.at)) < 0:
            self.at = max(self.at, len(self.data) - len(BEGIN))
            if not self.has(len(BEGIN) + 1):
                self.at = len(self.data)
                return
        self.at = found + 1


def _records(parts: Iterator[bytes], limit: int) -> Iterator[Found]:
    window = _Window(parts)
    while window.has(1):
        if window.data[window.at] in b"\r\n":
            window.at += 1
            continue
        window.has(MAX_HEAD)
        at = window.at
        gap = window.data.find(GAP, at, at + MAX_HEAD)
        head = window.data[at:gap] if gap >= 0 else b""
        length = LENGTH.search(head)
        if not head.startswith(BEGIN) or not length:
            yield window.offset, window.data[at : at + EXCERPT_BYTES], b"", "not a WARC record"
            window.seek_record(at)
            continue
        before, size = len(head) + len(GAP), int(length[1])
        fault = TOO_LONG if size > limit else CUT_OFF if not window.has(before + size) else ""
        has_gap = not fault and window.has(before + size + len(GAP))
        start = window.at + before
        end = start + size
        if has_gap and window.data[end : end + len(GAP)] != GAP:
            fault = "its length is wrong"
        yield window.offset, head, window.data[start : min(end, start + EXCERPT_BYTES) if fault else end], fault
        if fault:
            window.seek_record(start)
        else:
            window.at = end
