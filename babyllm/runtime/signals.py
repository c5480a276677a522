"""Signals that ask a process to stop."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# The signals of a service manager, of Ctrl-C, of a closed terminal, and of batch systems before the time is over. Some
# systems lack a few of them.
STOP_SIGNALS = [
    getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGXCPU") if hasattr(signal, name)
]


def heeded() -> list[signal.Signals]:
    """The stop signals that this process obeys: `nohup`, for one, makes it ignore a closed terminal."""
    always = (signal.SIGTERM, signal.SIGINT)
    return [s for s in STOP_SIGNALS if s in always or signal.getsignal(s) is not signal.SIG_IGN]


class StopSignal:
    """Remembers that a stop signal came, so that the loop can finish its step and save."""

    def __init__(self) -> None:
        self.is_set = False
        self._pid = os.getpid()

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Catch the signals while the body runs; does nothing in other threads, where Python allows no handlers."""
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
        if os.getpid() != self._pid:  # a forked worker has inherited the handler and must end
            signal.signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)
        if signum == signal.SIGINT and self.is_set:
            raise KeyboardInterrupt
        self.is_set = True


def ignore_signals() -> None:
    """Ignore stop signals while the interpreter ends: the work is done, and its exit status must say so."""
    if threading.current_thread() is threading.main_thread():
        for signum in heeded():
            signal.signal(signum, signal.SIG_IGN)


@contextmanager
def interrupts_held_back() -> Iterator[None]:
    """Hold Ctrl-C back while the body runs. Processes that it starts hold it back until `end_at_interrupts`."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_at_interrupts() -> None:
    """Make Ctrl-C end this process at once and silently, also one that was held back."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


@contextmanager
def ordinary_signals() -> Iterator[None]:
    """Make Ctrl-C raise and other stop signals end the process, for work that ignores `Runtime.stop_requested`."""
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
