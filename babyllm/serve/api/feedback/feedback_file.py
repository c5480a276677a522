"""Ratings of answers as JSON lines, which can be used as training data.

A line holds the conversation up to the rated answer, which comes last, the rating (1 or -1) and the time:

    {"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}], "rating": 1, "time": "..."}

A line with rating 1 is a ready example for supervised fine-tuning: earlier answers, which nobody rated, have
`"weight": 0`, so only the rated one is trained on. A line with rating -1 also has `"label": false`: readers of
conversations skip it, and readers of preferences use it. So one file serves both.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from babyllm.chat.messages import ASSISTANT, Message
from babyllm.errors import UserError


def feedback_line(messages: Sequence[Message], rating: int, time: datetime) -> str:
    """The JSON line that stores a rating of the last message.

    Args:
        messages: conversation that ends with the assistant's answer.
        rating: 1 for a good answer, -1 for a bad one.
        time: time of the rating.
    """
    written: list[dict[str, Any]] = []
    for i, message in enumerate(messages):
        is_earlier_answer = message.role == ASSISTANT and i < len(messages) - 1
        said = {"role": message.role, "content": message.content}
        thought = {"reasoning_content": message.reasoning} if message.reasoning else {}
        written.append(said | thought | ({"weight": 0} if is_earlier_answer else {}))
    record = {"messages": written, "rating": rating, "time": time.isoformat(timespec="seconds")}
    if rating < 0:
        record["label"] = False
    return json.dumps(record, ensure_ascii=False) + "\n"


class FeedbackFile:
    """A file that ratings are added to. Each line is written to disk whole or not at all."""

    def __init__(self, path: Path) -> None:
        """Open the file; create it if it does not exist.

        Raises:
            UserError: the file cannot be written.
        """
        self._lock = threading.Lock()
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
            size = os.fstat(self._descriptor).st_size
            os.lseek(self._descriptor, max(0, size - 1), os.SEEK_SET)
            if size and os.read(self._descriptor, 1) != b"\n":
                os.write(self._descriptor, b"\n")  # terminates a line that a crash cut short
        except OSError as error:
            raise UserError(f"--feedback={path}: this file cannot be written: {error.strerror}") from None

    def add(self, messages: Sequence[Message], rating: int) -> None:
        """Store a rating of the last message.

        Raises:
            OSError: the disk cannot store the line; the file is then left unchanged.
        """
        line = feedback_line(messages, rating, datetime.now(timezone.utc)).encode()
        with self._lock:
            size = os.fstat(self._descriptor).st_size
            try:
                if os.write(self._descriptor, line) != len(line):
                    raise OSError("the disk is full")
                os.fsync(self._descriptor)
            except OSError:
                os.ftruncate(self._descriptor, size)
                raise

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)
