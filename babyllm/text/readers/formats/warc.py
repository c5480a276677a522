"""Web archives: the pages of WARC files and the texts of WET files.

A record is a head of lines, an empty line, a body of as many bytes as the head says, and two line breaks. A record of
another form is rejected, and reading continues at the beginning of the next one.
"""

from __future__ import annotations

import codecs
import io
import re
import zlib
from collections.abc import Iterator
from http.client import HTTPException, HTTPResponse

from babyllm.documents import Document
from babyllm.text.readers.decoding.compressed import LOST, Damaged, next_member
from babyllm.text.readers.decoding.streams import EXCERPT_BYTES, blocks
from babyllm.text.readers.formats.document_fields import Fields
from babyllm.text.readers.formats.pages import main_text, page_text
from babyllm.text.readers.records import CUT_OFF, TOO_LONG, BadRecord, ReadConfig, Rejected, Source, rejected

BEGIN = re.compile(rb"WARC/\d")
AT_LINE = re.compile(rb"\nWARC/\d")
GAP = re.compile(rb"\r?\n\r?\n")
MAX_HEAD, MAX_GAP, MAX_BEGIN = 1 << 16, 4, 7  # bytes of a head, of the gap after a record, of the mark that begins one
LOST_RECORD = "damaged: this record is lost"
DEFLATES = ("gzip", "x-gzip", "deflate", "x-deflate")
LENGTH = re.compile(rb"^content-length:\s*(\d{1,18})\s*$", re.IGNORECASE | re.MULTILINE)
TARGET = re.compile(rb"^warc-target-uri:[ \t]*<?([^\s<>]+)", re.IGNORECASE | re.MULTILINE)
HEADER = re.compile(rb"^([\w-]+):[ \t]*([^\r\n]*)", re.MULTILINE)


def read_warc(source: Source, config: ReadConfig, fields: Fields) -> Iterator[Document | Rejected]:
    """The documents of a web archive: HTML and plain text from answers with status 200, and texts extracted from them.

    Requests, metadata, images and the like are skipped. In a compressed archive each record is a member of its own, so
    that a damaged one does not affect the others.
    """
    start: int | None = 0
    base = 0
    while start is not None:
        window = _Window(blocks(source, start), base)
        try:
            for offset, head, body, fault in _records(window, config.max_record_bytes):
                yield from _made(f"{source.name}:{offset}", head, body, fault, config, fields)
            return
        except Damaged as error:
            start = next_member(source.path, source.compression, error.place, b"WARC/")
            reason = LOST_RECORD if error.reason == LOST and start is not None else error.reason
            yield rejected(f"{source.name}:{window.offset}", reason, error)
            base = window.end


def _made(
    place: str, head: bytes, body: bytes, fault: str, config: ReadConfig, fields: Fields
) -> Iterator[Document | Rejected]:
    try:
        if fault:
            raise BadRecord(fault)
        text = _content(head, body, config.max_record_bytes)
        if text is not None:
            yield fields.plain(text, place, url=_url(head))
    except BadRecord as error:
        yield rejected(place, error, head + b"\r\n\r\n" + body[:EXCERPT_BYTES])


def _content(head: bytes, body: bytes, limit: int) -> str | None:
    """The text of a record; None if records of its kind have no text."""
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
    """The URL of the page in a record; empty if there is none."""
    found = TARGET.search(head)
    return found[1].decode("utf-8", "replace") if found else ""


def _charset(media: str) -> str | None:
    found = re.search(r"charset=[\"']?([\w-]+)", media)
    return found[1] if found else None


class _Socket:
    """A received message in the form of a connection, for `HTTPResponse`."""

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
        content = _unchunked(response, socket.stream)
    except (HTTPException, ValueError, OSError):
        raise BadRecord("not a valid HTTP answer") from None
    return media, _unpacked(content, response.getheader("Content-Encoding", ""), limit)


def _unchunked(response: HTTPResponse, stream: io.BytesIO) -> bytes:
    """The content of an answer; archives may hold it unchunked although its headers say otherwise."""
    if not response.chunked:
        return stream.read()
    content = stream.getvalue()[stream.tell() :]  # before a failure closes the stream
    try:
        return response.read()
    except (HTTPException, ValueError):
        if re.match(rb"[0-9A-Fa-f]{1,8}[ \t]*(;[^\n]*)?\r?\n", content):
            raise  # it is chunked, and broken
        return content


def _unpacked(content: bytes, encodings: str, limit: int) -> bytes:
    """The content with the server's compressions undone, the last one first.

    Raises:
        BadRecord: a compression is unknown, or the compressed content is damaged or too long.
    """
    for name in reversed([name.strip().lower() for name in encodings.split(",")]):
        if name in DEFLATES:
            content = _inflated(content, limit)
        elif name not in ("", "identity", "none") and not _is_text(content):
            # Common Crawl and others store the unpacked content under the headers of the packed one.
            raise BadRecord(f"the content is compressed by {name[:20]}")
    return content


def _is_text(content: bytes) -> bool:
    """Whether content is not compressed: it is text in UTF-8 or begins like a page."""
    head = content[:4096]
    if b"\0" in head:
        return False
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return re.match(rb"\s*<[!\w]", head) is not None
    return True


def _inflated(content: bytes, limit: int) -> bytes:
    """The content unpacked from gzip, zlib or bare deflate; unchanged if it was not compressed after all."""
    for bits in (47, -15):
        unpacker = zlib.decompressobj(bits)
        try:
            content = unpacker.decompress(content, limit + 1)
        except zlib.error:
            continue
        if len(content) > limit:
            raise BadRecord(TOO_LONG)
        return content
    if _is_text(content):
        return content
    raise BadRecord("the compressed content is damaged")


# ---- records of the archive

Found = tuple[int, bytes, bytes, str]  # offset, head, body, and the reason why it cannot be read if that is known


class _Window:
    """A window onto a stream: `data` from `at` on holds its next bytes.

    Args:
        parts: blocks of the stream.
        base: offset at which it begins.
    """

    def __init__(self, parts: Iterator[bytes], base: int) -> None:
        self._parts, self._base, self.data, self.at = parts, base, b"", 0
        self.damage: Damaged | None = None

    @property
    def offset(self) -> int:
        return self._base + self.at

    @property
    def end(self) -> int:
        return self._base + len(self.data)

    def has(self, size: int) -> bool:
        """Load the next `size` bytes, or all before the end or the damage; returns whether there are that many."""
        while len(self.data) - self.at < size and (part := self._next()):
            self._base, self.data, self.at = self._base + self.at, self.data[self.at :] + part, 0
        return len(self.data) - self.at >= size

    def _next(self) -> bytes:
        try:
            return next(self._parts, b"") if self.damage is None else b""
        except Damaged as error:
            self.damage = error
            return b""

    def seek_record(self, start: int) -> None:
        """Go to the first beginning of a record after `start`, or to the end."""
        self.at = start
        while not (found := AT_LINE.search(self.data, self.at)):
            self.at = max(self.at, len(self.data) - MAX_BEGIN)
            if not self.has(MAX_BEGIN + 1):
                self.at = len(self.data)
                return
        self.at = found.start() + 1


def _records(window: _Window, limit: int) -> Iterator[Found]:
    """The records of a stream.

    Raises:
        Damaged: the stream is damaged; raised after the records before the damage.
    """
    while window.has(1):
        if window.data[window.at] in b"\r\n":
            window.at += 1
            continue
        window.has(MAX_HEAD)
        at = window.at
        gap = GAP.search(window.data, at, at + MAX_HEAD)
        head = window.data[at : gap.start()] if gap else b""
        length = LENGTH.search(head)
        if not gap or not BEGIN.match(head) or not length:
            if window.damage and not gap:
                break
            yield window.offset, window.data[at : at + EXCERPT_BYTES], b"", "not a WARC record"
            window.seek_record(at)
            continue
        before, size = gap.end() - at, int(length[1])
        fault = TOO_LONG if size > limit else CUT_OFF if not window.has(before + size) else ""
        if fault and window.damage:
            break
        has_gap = not fault and window.has(before + size + MAX_GAP)
        start = window.at + before
        end = start + size
        if has_gap and not GAP.match(window.data, end):
            fault = "its length is wrong"
        yield window.offset, head, window.data[start : min(end, start + EXCERPT_BYTES) if fault else end], fault
        if fault:
            window.seek_record(start)
        else:
            window.at = end
    if window.damage:
        raise window.damage
