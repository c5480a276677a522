"""Consoles that lack an encoding, are closed, or lose their reader.

prepare()                  at program start: characters that the console cannot show are escaped
with lasting_output():     around work whose result is not its output: it goes on after the reader has gone
with leaving_at_once():    around work with nothing to clean up: Ctrl-C ends it silently
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
    """Make printing safe: characters that the encoding lacks are escaped, and a closed stream discards all text."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, _null_stream(number))
        elif number and isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _null_stream(number: int) -> TextIO:
    """A null stream that replaces a closed one and takes its file descriptor, which the next opened file would get."""
    mode = "w" if number else "r"
    with suppress(OSError):
        os.fstat(number)
        return cast(TextIO, open(os.devnull, mode, encoding="utf-8"))  # another file already has the descriptor
    opened = os.open(os.devnull, os.O_RDWR)
    if opened != number:
        os.dup2(opened, number)
        os.close(opened)
    return cast(TextIO, open(number, mode, encoding="utf-8", closefd=False))


@contextmanager
def lasting_output() -> Iterator[None]:
    """Let the body go on when the reader of its output has gone or the disk is full; later output is lost."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (cast(TextIO, _Lasting(stream)) for stream in before)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stdout, sys.stderr = before


@contextmanager
def leaving_at_once() -> Iterator[None]:
    """Let Ctrl-C end the process at once with status 130, while there is nothing to finish or undo.

    A KeyboardInterrupt would be lost inside some callbacks of imports or destructors, and would print a traceback where
    nothing catches it yet.
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
    """A stream whose output is discarded once it cannot be written."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError:
            self._discard()
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError:
            self._discard()

    def _discard(self) -> None:
        """Redirect the stream to the null device, so that flushing its buffer cannot fail when the process ends."""
        with suppress(OSError):
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, self._stream.fileno())
            os.close(nothing)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
