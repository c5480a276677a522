"""The filter for the sources of documents, by lists of hosts and beginnings of URLs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from babyllm.config.values import PathText
from babyllm.errors import UserError
from babyllm.files import sha256
from babyllm.text.readers import ReadConfig
from babyllm.text.readers.decoding.encodings import text_of_file
from babyllm.text.readers.records import BadRecord

_PARTS = re.compile(
    r"(?:[a-z][a-z0-9+.-]*:)?(?://)?(?:[^/?#@]*@)?([^/?#:]*)(?::[0-9]+)?(.*)\Z", re.IGNORECASE | re.DOTALL
)


@dataclass(frozen=True)
class Sites:
    """Reject documents by their URL, the field `url`; those without one stay.

    An entry is a host, which includes its subdomains (example.com), or the beginning of a URL on a host
    (example.com/forum/), with or without https://. An allowed document stays even if it is blocked, too.

    Attributes:
        block: entries whose documents are removed.
        allow: entries whose documents stay; if nothing is blocked, all others are removed.
        block_files: files with one blocked entry per line; a comment follows #.
        allow_files: files with one allowed entry per line.
    """

    block: list[str] = field(default_factory=list)
    allow: list[str] = field(default_factory=list)
    block_files: list[PathText] = field(default_factory=list)
    allow_files: list[PathText] = field(default_factory=list)

    def test_url(self, url: str) -> str | None:
        """Why a document with this URL is rejected, or None.

        Raises:
            UserError: a file cannot be read, or the lists have no entry.
        """
        blocked = _entries("block", tuple(self.block), tuple(self.block_files))
        allowed = _entries("allow", tuple(self.allow), tuple(self.allow_files))
        if not blocked and not allowed:
            raise UserError("--sites: lists nothing; name hosts with --sites.block or --sites.allow")
        if not url or _is_listed(url, allowed):
            return None
        if not blocked:
            return "address is not allowed"
        return "address is blocked" if _is_listed(url, blocked) else None

    def digests(self, read: ReadConfig) -> dict[str, str]:
        """The sha256 of each list."""
        paths = [Path(file) for file in (*self.block_files, *self.allow_files)]
        return {f"sites {path}": sha256(path) for path in paths if path.is_file()}


@cache
def _entries(name: str, entries: Sequence[str], files: Sequence[str]) -> dict[str, list[str]]:
    """The beginnings of paths by host; an empty beginning matches all paths."""
    lines = list(entries)
    for file in files:
        try:
            text = text_of_file(Path(file))
        except (OSError, BadRecord) as error:
            raise UserError(f"--sites.{name}_files={file}: cannot be read ({error}); save it as UTF-8 text") from error
        lines += [line.partition("#")[0] for line in text.splitlines()]
    result: dict[str, list[str]] = {}
    for line in lines:
        if line.strip():
            host, path = _parts(line.strip())
            result.setdefault(host, []).append(path)
    return result


def _is_listed(url: str, entries: dict[str, list[str]]) -> bool:
    host, path = _parts(url)
    labels = host.split(".")
    return any(
        path.startswith(beginning) for i in range(len(labels)) for beginning in entries.get(".".join(labels[i:]), ())
    )


def _parts(url: str) -> tuple[str, str]:
    """Host and rest of a URL, normalised: an ASCII host without a final dot, and an empty rest for a lone slash."""
    found = _PARTS.match(url.strip())
    host, path = (found[1], found[2]) if found else ("", url)
    host = host.lower().strip(".").removeprefix("*.")
    if not host.isascii():
        with suppress(UnicodeError):
            host = host.encode("idna").decode("ascii")
    return host, "" if path == "/" else path
