"""The console as it may be: of another encoding than the text, closed, or with a reader that goes away.

prepare()                  at the entrance: what is printed is escaped where it cannot be shown
with lasting_output():     around work whose result is not what it prints: it ends as if somebody read all of it
with leaving_at_once():    around what leaves nothing behind: Ctrl-C ends it without a word
"""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO, cast


def prepare() -> None:
    """Let no text fail to be printed: what an encoding lacks is escaped, and a closed stream takes everything."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, _nothing(number))
        elif number and isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _nothing(number: int) -> TextIO:
    """A stream in the place of a closed one; it takes its number, too, which the next file would have otherwise."""
    mode = "w" if number else "r"
    with suppress(OSError):
        os.fstat(number)
        return cast(TextIO, open(os.devnull, mode, encoding="utf-8"))  # another file has the number already
    opened = os.open(os.devnull, os.O_RDWR)
    if opened != number:
        os.dup2(opened, number)
        os.close(opened)
    return cast(TextIO, open(number, mode, encoding="utf-8", closefd=False))


@contextmanager
def lasting_output() -> Iterator[None]:
    """Go on when the reader of the output is gone or its disk full; what is printed from then on is lost."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (cast(TextIO, _Lasting(stream)) for stream in before)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stdout, sys.stderr = before


@contextmanager
def leaving_at_once() -> Iterator[None]:
    """Let Ctrl-C end the process with status 130 at once, while there is nothing to finish or to undo.

    An exception would be lost where Python calls back out of an import or a destructor, and end in a traceback where
    nothing is there yet to catch it.
    """
    before = signal.getsignal(signal.SIGINT)
    if before is signal.SIG_IGN or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class _Lasting:
    """A stream that nobody has to read."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError:
            self._leave()
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError:
            self._leave()

    def _leave(self) -> None:
        """Point the stream at nothing, so that what it still holds does not fail at the end of the process."""
        with suppress(OSError):
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, self._stream.fileno())
            os.close(nothing)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
