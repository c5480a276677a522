"""The log of sessions: what was asked and answered, and how people rate it, appended to files that expire.

    sessions-20260131-000001.jsonl    {"kind": "answer", "id": ..., "messages": [...], "answers": [...], ...}
                                      {"kind": "rating", "answer": ID, "rating": 1, ...}

A thread writes all lines that wait at once and flushes them to the disk before `add` returns. So a crash loses no
answer that a client has received whole. A new file begins with each process, day (UTC) and `FILE_BYTES`; the oldest
files are deleted when they are older than `days`, or when all of them are larger than `max_bytes`.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import re
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

from babyllm.errors import UserError
from babyllm.files import locked, write_bytes

logger = logging.getLogger(__name__)

FILE_BYTES = 64 << 20
"""Size at which the next file begins."""
FILES_AT_LEAST = 8  # so that deleting the oldest one deletes no large share of what may be kept
ANSWER, RATING = "answer", "rating"
_NAME = re.compile(r"sessions-(\d{8})-(\d{6})\.jsonl")
_LOCK, _KEY = ".lock", ".key"
_PRUNE_S = 3600.0
_CLOSE_S = 10.0


@dataclass(frozen=True)
class Retention:
    """How long sessions are kept.

    Attributes:
        days: number of days after which a file is deleted.
        max_bytes: largest size of all files together.
    """

    days: int
    max_bytes: int


class _Line(NamedTuple):
    content: bytes
    is_written: Future[bool]


class SessionLog:
    """Appends lines to the files of a directory; may be used by several threads."""

    def __init__(
        self,
        directory: Path,
        retention: Retention,
        now: Callable[[], datetime] = lambda: datetime.now(timezone.utc),
    ) -> None:
        """Begin; creates the directory if there is none, readable by its owner alone, and deletes what has expired.

        Args:
            directory: directory of the files; another process may not write it at the same time.
            retention: how long sessions are kept.
            now: function that returns the time, in UTC.

        Raises:
            UserError: the directory cannot be written, or another server writes it.
        """
        self._directory, self._retention, self._now = directory, retention, now
        self._file_bytes = max(1, min(FILE_BYTES, retention.max_bytes // FILES_AT_LEAST))
        self._file: Path | None = None
        self._size = 0
        self._lines: queue.SimpleQueue[_Line | None] = queue.SimpleQueue()
        self._held = ExitStack()
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not self._held.enter_context(locked(directory / _LOCK, 0)):
                raise UserError(f"--log={directory}: another server stores sessions there; choose another directory")
            self._key = self._read_key()
            self._prune()
        except OSError as error:
            self._held.close()
            raise UserError(f"--log={directory}: cannot be written ({error.strerror})") from None
        self._thread = threading.Thread(target=self._work, name="session log", daemon=True)
        self._thread.start()

    @property
    def days(self) -> int:
        """Number of days for which sessions are kept at most."""
        return self._retention.days

    def add(self, line: Mapping[str, Any]) -> Future[bool]:
        """Store a line, with the time.

        Args:
            line: JSON values; `kind` says which they are.

        Returns:
            What becomes whether the line is on the disk; a failure is logged. A caller that no longer waits may cancel
            it; the line is stored all the same.
        """
        dated = {"time": self._now().isoformat(timespec="milliseconds"), **line}
        # Clients can send lone surrogates, which have no UTF-8; JSON has an escape for them.
        content = (json.dumps(dated, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")
        waiting = _Line(content, Future())
        self._lines.put(waiting)
        return waiting.is_written

    def alias(self, name: str) -> str:
        """A name of a person or session as it is stored: a hash with a key that only this directory has."""
        return blake2b(name.encode("utf-8", "backslashreplace"), digest_size=12, key=self._key).hexdigest()

    def close(self) -> None:
        """Write what waits and close the directory."""
        self._lines.put(None)
        self._thread.join(_CLOSE_S)
        self._held.close()

    def _read_key(self) -> bytes:
        file = self._directory / _KEY
        if not file.exists():
            write_bytes(file, os.urandom(32))
            file.chmod(0o600)
        return file.read_bytes()[:64]

    def _work(self) -> None:
        is_open, pruned = True, time.monotonic()
        while is_open:
            lines: list[_Line | None] = []
            with suppress(queue.Empty):
                lines.append(self._lines.get(timeout=_PRUNE_S))
                while True:
                    lines.append(self._lines.get_nowait())
            is_open = None not in lines
            self._write([line for line in lines if line is not None])
            if time.monotonic() > pruned + _PRUNE_S:
                pruned = time.monotonic()
                with suppress(OSError):
                    self._prune()

    def _write(self, lines: list[_Line]) -> None:
        for begin in range(0, len(lines), 256):  # so that a file is not much larger than it may be
            batch = lines[begin : begin + 256]
            try:
                self._append(b"".join(line.content for line in batch))
                is_written = True
            except OSError as error:
                is_written = False
                logger.warning("%s: %d sessions are not stored: %s", self._directory, len(batch), error.strerror)
            for line in batch:
                if line.is_written.set_running_or_notify_cancel():
                    line.is_written.set_result(is_written)

    def _append(self, content: bytes) -> None:
        """Write lines, all or none of them.

        Raises:
            OSError: the disk is full, or the file cannot be written.
        """
        day = f"{self._now():%Y%m%d}"
        is_full = self._size > 0 and self._size + len(content) > self._file_bytes
        if self._file is None or is_full or _day(self._file) != day:
            number = max((_number(file) for file in session_files(self._directory) if _day(file) == day), default=0) + 1
            self._file, self._size = self._directory / f"sessions-{day}-{number:06d}.jsonl", 0
            self._prune(len(content))
        descriptor = os.open(self._file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            before = os.fstat(descriptor).st_size
            try:
                left = memoryview(content)
                while left:
                    left = left[os.write(descriptor, left) :]
                os.fsync(descriptor)
            except OSError:
                self._cut(descriptor, before)
                raise
            self._size = before + len(content)
        finally:
            os.close(descriptor)

    def _cut(self, descriptor: int, size: int) -> None:
        """Take back what was written of some lines; a file that cannot be cut gets no further ones."""
        try:
            os.ftruncate(descriptor, size)
        except OSError:
            self._file = None

    def _prune(self, n_bytes: int = 0) -> None:
        """Delete files that have expired, and the oldest ones while all are too large; never the current one."""
        first = f"{self._now() - timedelta(days=self._retention.days):%Y%m%d}"
        files = [file for file in session_files(self._directory) if file != self._file]
        sizes = {file: file.stat().st_size for file in files}
        # Room for the file that begins, so that all together stay below the limit.
        total = sum(sizes.values()) + max(n_bytes, self._file_bytes)
        for file in files:
            if _day(file) < first or total > self._retention.max_bytes:
                total -= sizes[file]
                file.unlink(missing_ok=True)


def session_files(directory: Path) -> list[Path]:
    """The files of a log of sessions, the oldest first."""
    return sorted(file for file in directory.iterdir() if _NAME.fullmatch(file.name))


def _day(file: Path) -> str:
    found = _NAME.fullmatch(file.name)
    return found[1] if found else ""


def _number(file: Path) -> int:
    found = _NAME.fullmatch(file.name)
    return int(found[2]) if found else 0
