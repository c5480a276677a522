"""Signals that ask a process to stop."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# A service manager, Ctrl-C, a closed terminal, and what batch systems send before the time is over. Not every system
# has all of them.
STOP_SIGNALS = [
    getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGXCPU") if hasattr(signal, name)
]


def heeded() -> list[signal.Signals]:
    """Those of `STOP_SIGNALS` that mean something to this process: `nohup` makes it ignore a closed terminal."""
    always = (signal.SIGTERM, signal.SIGINT)
    return [s for s in STOP_SIGNALS if s in always or signal.getsignal(s) is not signal.SIG_IGN]


class StopSignal:
    """Remembers that a stop signal came, so that the loop can finish its step and save."""

    def __init__(self) -> None:
        self.is_set = False
        self._pid = os.getpid()

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Catch the signals while the body runs; not outside the main thread, where Python allows no handlers."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        old = {signum: signal.signal(signum, self._receive) for signum in heeded()}
        try:
            yield
        finally:
            for signum, handler in old.items():
                signal.signal(signum, handler)

    def _receive(self, signum: int, frame: FrameType | None) -> None:
        if os.getpid() != self._pid:  # a forked worker inherits the handler, but terminating it must end it
            signal.signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)
        if signum == signal.SIGINT and self.is_set:
            raise KeyboardInterrupt
        self.is_set = True


def ignore_signals() -> None:
    """Let no signal make work that is done look as if it were not, while the interpreter ends."""
    if threading.current_thread() is threading.main_thread():
        for signum in heeded():
            signal.signal(signum, signal.SIG_IGN)


@contextmanager
def interrupts_held_back() -> Iterator[None]:
    """Let Ctrl-C wait while the body runs, and in processes that it starts, until they call `end_at_interrupts`."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_at_interrupts() -> None:
    """Let Ctrl-C, one that was held back included, end this process at once and silently."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


@contextmanager
def ordinary_signals() -> Iterator[None]:
    """Let Ctrl-C raise and the others end the process, for work that does not look at `Runtime.stop_requested`."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ordinary = {signum: signal.SIG_DFL for signum in heeded()} | {signal.SIGINT: signal.default_int_handler}
    old = {signum: signal.signal(signum, handler) for signum, handler in ordinary.items()}
    try:
        yield
    finally:
        for signum, handler in old.items():
            signal.signal(signum, handler)
