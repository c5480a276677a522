"""Replies on disk by the hash of their request: an append-only file of JSON lines, which several processes share.

    replies.jsonl: {"key": "<sha256 of address, body and sample>", "reply": {the server's JSON object}}

A process killed within a write leaves half a line. It is skipped when the file is read, and ended before the next line
is added, so nothing else is lost.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from babyllm.errors import UserError
from babyllm.files import locked

FILE = "replies.jsonl"
_PATIENCE_S = 30.0
_KEY = re.compile(rb'\{"key": "(\w+)", ')  # reading a line's reply waits until it is wanted, since files grow large


class ReplyCache:
    """The replies of earlier requests, in memory if there is no directory.

    Args:
        directory: directory of the file, made if missing; None keeps replies until the process ends.

    Raises:
        UserError: the directory cannot be made or read.
    """

    def __init__(self, directory: Path | None) -> None:
        self._path = None if directory is None else directory / FILE
        self._places: dict[str, tuple[int, int]] = {}  # by key: offset and length of the line
        self._kept: dict[str, Any] = {}
        self._end = 0  # how much of the file is known
        if self._path:
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._path.touch()
                self._read_on()
            except OSError as error:
                raise self._unusable(error) from error

    def get(self, key: str) -> Any:
        """The reply to a request; None if there is none."""
        if self._path is None:
            return self._kept.get(key)
        if key not in self._places:
            return None
        offset, length = self._places[key]
        with self._path.open("rb") as file:
            file.seek(offset)
            return _parsed(file.read(length))

    def put(self, key: str, reply: Any) -> None:
        """Store a reply; it survives the end of the process from now on.

        Raises:
            UserError: the file cannot be written, for example because the disk is full.
        """
        if self._path is None:
            self._kept[key] = reply
            return
        line = json.dumps({"key": key, "reply": reply}).encode() + b"\n"
        try:
            with locked(self._path.with_name(".lock"), _PATIENCE_S), self._path.open("ab+") as file:
                end = file.seek(0, os.SEEK_END)
                if end:
                    file.seek(end - 1)
                    line = line if file.read(1) == b"\n" else b"\n" + line
                file.write(line)
            self._read_on()
        except OSError as error:
            raise self._unusable(error) from error

    def _read_on(self) -> None:
        """Note the places of the lines that this or another process has added."""
        assert self._path
        with self._path.open("rb") as file:
            file.seek(self._end)
            for line in file:
                if not line.endswith(b"\n"):  # half a line, which its writer may yet complete
                    break
                if found := _KEY.match(line):
                    self._places[found[1].decode()] = (self._end, len(line))
                self._end += len(line)

    def _unusable(self, error: OSError) -> UserError:
        return UserError(
            f"{self._path}: replies cannot be stored there ({error.strerror}); free the disk or choose --endpoint.cache"
        )


def _parsed(line: bytes) -> Any:
    """The reply of a line; None for a damaged one."""
    try:
        return json.loads(line)["reply"]
    except (ValueError, RecursionError, TypeError, KeyError):
        return None
