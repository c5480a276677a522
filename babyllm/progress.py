"""A progress line: how much of a long task is done, and when it will end."""

from __future__ import annotations

import shutil
import sys
import time
from collections import deque
from typing import TextIO

PLAIN_LINE_INTERVAL_S = 10.0  # shortest time between lines when the output is a file or a pipe
RATE_WINDOW = 32  # calls over which the speed is averaged


def format_duration(seconds: float) -> str:
    """Return a duration for people to read: `42 s`, `12 min 05 s`, `1:02:03` (hours), `2 d 03 h`."""
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    days, h = divmod(hours, 24)
    if days:
        return f"{days} d {h:02d} h"
    if hours:
        return f"{hours}:{m:02d}:{s:02d}"
    return f"{m} min {s:02d} s" if minutes else f"{s} s"


class ProgressLine:
    """One line that is rewritten on a terminal; elsewhere at most one plain line every ten seconds.

    Args:
        title: name of the unit counted, such as "step".
        total: number of units of the whole task.
        done: number of units finished before this process.
        live: whether to rewrite the line; None does so if `output` is a terminal.
        output: stream to print to; None takes standard output.
    """

    def __init__(
        self, title: str, total: int, done: int = 0, *, live: bool | None = None, output: TextIO | None = None
    ) -> None:
        self._title, self._total = title, total
        self._output = sys.stdout if output is None else output
        self._is_live = self._output.isatty() if live is None else live
        self._start = (time.monotonic(), done)
        self._marks = deque([self._start], maxlen=RATE_WINDOW)
        self._shown = ""
        self._next_plain_s = 0.0

    def show(self, done: int, status: str = "", note: str = "") -> None:
        """Show that `done` units are finished, with `status` before the times and `note` after them."""
        now = time.monotonic()
        left = self._time_left(now, done)
        share = done / max(1, self._total)
        times = f"{format_duration(now - self._start[0])} elapsed, {left} left"
        text = " | ".join(part for part in (f"{share:.0%}", status, times, note) if part)
        count = (
            f"{self._title} {done:,}/{self._total:,}" if self._total > 99_999 else f"{self._title} {done}/{self._total}"
        )
        if self._is_live:
            width = shutil.get_terminal_size().columns - 1
            room = min(30, width - len(count) - len(text) - 4)
            bar = f"[{'=' * int(share * room):<{room}}] " if room >= 5 else ""
            self._shown = f"{count} {bar}{text}"[:width].ljust(width)
            self._write(f"\r{self._shown}")
        elif now >= self._next_plain_s or done >= self._total:
            self._next_plain_s = now + PLAIN_LINE_INTERVAL_S
            self._write(f"{count} {text}\n")

    def message(self, text: str) -> None:
        """Print a line above the progress line."""
        if self._shown:
            self._write(f"\r{' ' * len(self._shown)}\r{text}\n{self._shown}")
        else:
            self._write(f"{text}\n")

    def end(self) -> None:
        """End the line and leave it on the terminal."""
        if self._shown:
            self._write("\n")
        self._shown = ""

    def _write(self, text: str) -> None:
        print(text, end="", file=self._output, flush=True)

    def _time_left(self, now: float, done: int) -> str:
        self._marks.append((now, done))
        if len(self._marks) > 2 and self._marks[0] == self._start:
            self._marks.popleft()  # the first interval includes compilation and warm-up, so it predicts nothing
        since, first = self._marks[0]
        if done == first:
            return "?"
        return format_duration((now - since) / (done - first) * (self._total - done))
