"""The log of requests: one line of JSON each, appended by a thread of its own, so that no request waits for the disk.

The file is opened for each batch of lines. So it can be renamed or removed at any time; the next line begins a new one.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from babyllm.errors import UserError

logger = logging.getLogger(__name__)

MAX_WAITING = 10_000
"""Number of lines that wait for the disk at most; further ones are left out, and the next line counts them."""
CLOSE_S = 5.0
RECORD = "record"  # key in the state of a request


@dataclass
class RequestRecord:
    """What is known of a request; its handler fills it in.

    Attributes:
        has_contents: whether what the client and the model say is kept too.
        model: name of the model that answers; empty for a request without one.
        n_prompt_tokens: number of tokens of its prompts.
        n_completion_tokens: number of tokens of its answers.
        first_token_s: seconds from its submission to its first token; None without one.
        body: its body, if contents are kept.
        answers: texts of its answers, if contents are kept.
    """

    has_contents: bool = False
    model: str = ""
    n_prompt_tokens: int = 0
    n_completion_tokens: int = 0
    first_token_s: float | None = None
    body: bytes = b""
    answers: dict[int, list[str]] = field(default_factory=dict)

    def fields(self) -> dict[str, Any]:
        """The fields of its line that it knows."""
        known: dict[str, Any] = {
            "model": self.model or None,
            "prompt_tokens": self.n_prompt_tokens,
            "completion_tokens": self.n_completion_tokens,
            "first_token_s": None if self.first_token_s is None else round(self.first_token_s, 4),
        }
        if self.has_contents and self.body:
            known["request"] = self.body.decode(errors="replace")
            known["answers"] = ["".join(self.answers[number]) for number in sorted(self.answers)]
        return known


class RequestLog:
    """Appends lines to a file, in a thread.

    Attributes:
        has_contents: whether lines hold what clients and the model say.
    """

    def __init__(self, path: Path, has_contents: bool = False) -> None:
        """Begin; creates the file if there is none.

        Args:
            path: path of the file.
            has_contents: whether lines hold what clients and the model say.

        Raises:
            UserError: the file cannot be written.
        """
        self.has_contents, self._path = has_contents, path
        try:
            self._append(b"")
        except OSError as error:
            raise UserError(f"--request_log={path}: this file cannot be written: {error.strerror}") from None
        self._lines: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._n_left_out = 0
        self._thread = threading.Thread(target=self._work, name="request log", daemon=True)
        self._thread.start()

    def add(self, method: str, path: str, status: int, seconds: float, record: RequestRecord) -> None:
        """Log a request that has ended.

        Args:
            method: its HTTP method.
            path: its path.
            status: status of its response.
            seconds: time from its head to the end of its response.
            record: what its handler knows of it.
        """
        if self._lines.qsize() >= MAX_WAITING:
            self._n_left_out += 1
            return
        time = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        line = {"time": time, "method": method, "path": path[:200], "status": status, "seconds": round(seconds, 4)}
        left_out = {"left_out_before": self._n_left_out} if self._n_left_out else {}
        self._n_left_out = 0
        self._lines.put(line | record.fields() | left_out)

    def close(self) -> None:
        """Write what is waiting, for a few seconds at most."""
        self._lines.put(None)
        self._thread.join(CLOSE_S)

    def _work(self) -> None:
        is_open = True
        while is_open:
            lines = [self._lines.get()]
            with suppress(queue.Empty):
                while True:
                    lines.append(self._lines.get_nowait())
            is_open = None not in lines
            content = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines if line is not None)
            try:
                self._append(content.encode("utf-8", "replace"))
            except OSError as error:
                logger.warning("%s: %d lines of the request log are lost: %s", self._path, len(lines), error.strerror)

    def _append(self, content: bytes) -> None:
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            while content:
                content = content[os.write(descriptor, content) :]
        finally:
            os.close(descriptor)
