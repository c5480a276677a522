"""The edits of a file, each a new line of FILE.edits.jsonl that is on the disk before it counts.

    {"line": 3, "digest": "...", "status": "keep", "time": "..."}                    kept or rejected, or neither
    {"line": 3, "digest": "...", "record": {...}, "time": "..."}                     mended

The file itself never changes. The digest is that of its line, so an edit of another version of the file is noticed.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from babyllm.errors import UserError
from babyllm.files import locked
from babyllm.records.line_index import LineIndex, parsed

SUFFIX = ".edits.jsonl"
KEEP, REJECT = "keep", "reject"
STATUSES = (KEEP, REJECT, "")


@dataclass(frozen=True)
class State:
    """What has become of a record.

    Attributes:
        status: "keep", "reject", or empty.
        line: JSON line that replaces it; None if it is as it was.
        n_edits: number of edits.
    """

    status: str = ""
    line: bytes | None = None
    n_edits: int = 0


class EditLog:
    """The edits of one file.

    Attributes:
        path: path of the edits.
        states: states of the records that have been edited, by their index.
    """

    def __init__(self, index: LineIndex) -> None:
        """Read the edits that there are.

        Raises:
            UserError: they cannot be read, or are of another version of the file.
        """
        self._index = index
        self.path = index.path.with_name(index.path.name + SUFFIX)
        self.states: dict[int, State] = {}
        self._numbers = {number: i for i, number in enumerate(index.numbers)} if self.path.exists() else {}
        try:
            content = self.path.read_bytes() if self.path.exists() else b""
        except OSError as error:
            raise UserError(f"{self.path}: cannot be read ({error.strerror})") from error
        whole, _, _ = content.rpartition(b"\n")  # a crash may have cut the last line short
        for number, line in enumerate(whole.split(b"\n") if whole else [], 1):
            self._apply(number, line)

    def _apply(self, number: int, line: bytes) -> None:
        edit = parsed(line)
        place = edit.get("line") if edit else None
        at = self._numbers.get(place) if isinstance(place, int) else None
        if edit is None:  # a crash had cut it short, before it counted
            return
        if at is None or edit.get("digest") != digest_of(self._index.line(at)):
            raise UserError(
                f"{self.path}, line {number}: is not an edit of {self.index_name} as it is now; give the file that was "
                "edited, or move the edits away"
            )
        self.states[at] = _after(self.states.get(at, State()), edit)

    @property
    def index_name(self) -> str:
        """The name of the file."""
        return self._index.path.name

    def state(self, at: int) -> State:
        """What has become of a record."""
        return self.states.get(at, State())

    def line(self, at: int) -> bytes:
        """The line of a record as it is now."""
        mended = self.state(at).line
        return self._index.line(at) if mended is None else mended

    def add(self, at: int, change: Mapping[str, Any]) -> State:
        """Store an edit.

        Args:
            at: index of the record.
            change: `status`, or `record`, or `text` that is not a record.

        Raises:
            OSError: the disk cannot store it; nothing has then changed.
        """
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        about = {"line": self._index.numbers[at], "digest": digest_of(self._index.line(at))}
        edit = {**about, **change, "time": now}
        _append(self.path, json_line(edit) + b"\n")
        self.states[at] = _after(self.state(at), edit)
        return self.states[at]


@contextmanager
def editing(index: LineIndex) -> Iterator[EditLog]:
    """The edits of a file, which no other program edits meanwhile.

    Raises:
        UserError: another program does, or the edits cannot be read.
    """
    lock = index.path.with_name(index.path.name + SUFFIX + ".lock")
    with ExitStack() as stack:
        try:
            is_free = stack.enter_context(locked(lock, 0.0))
        except OSError as error:
            raise UserError(f"{lock}: cannot be written ({error.strerror}); edits need a folder that can") from error
        if not is_free:
            raise UserError(f"{index.path}: another babyllm records has it open; close that one first")
        yield EditLog(index)


def digest_of(line: bytes) -> str:
    """A short hash of a line."""
    return hashlib.sha256(line).hexdigest()[:16]


def json_line(value: Any) -> bytes:
    """A value as a line of JSON, without its end; halves of characters are written as escapes."""
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "backslashreplace")


def _after(state: State, edit: Mapping[str, Any]) -> State:
    state = replace(state, n_edits=state.n_edits + 1)
    if edit.get("status") in STATUSES:
        state = replace(state, status=edit["status"])
    if "record" in edit:
        state = replace(state, line=json_line(edit["record"]))
    elif isinstance(edit.get("text"), str):
        state = replace(state, line=edit["text"].encode("utf-8", "backslashreplace"))
    return state


def _append(path: Path, line: bytes) -> None:
    """Add a line to the end of a file, whole or not at all."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        size = os.fstat(descriptor).st_size
        os.lseek(descriptor, max(0, size - 1), os.SEEK_SET)
        if size and os.read(descriptor, 1) != b"\n":
            line = b"\n" + line  # ends a line that a crash cut short
        try:
            if os.write(descriptor, line) != len(line):
                raise OSError("the disk is full")
            os.fsync(descriptor)
        except OSError:
            os.ftruncate(descriptor, size)
            raise
    finally:
        os.close(descriptor)
