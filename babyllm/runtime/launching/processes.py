"""Processes of the operating system: whether one still runs, and how one ends with its parent."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

_PARENT_CHECK_S = 1.0


def process_space() -> str:
    """A text that two processes share if each can look the other up by its id; empty if no look-up is possible."""
    if os.name == "nt":  # os.kill would end the process there
        return ""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return "" if sys.platform == "linux" else socket.gethostname()


def is_running(pid: int) -> bool:
    """Whether a process of this `process_space` still runs; a suspended one does."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    with suppress(OSError, IndexError):  # an ended process stays in the table until its parent has waited for it
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] not in ("Z", "X")
    return True


def end_with(parent: int) -> None:
    """Make this process end as soon as its parent, the process `parent`, has ended in whatever way."""
    if sys.platform == "linux":
        set_parent_death_signal = 1  # prctl(2)
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)

    def look() -> None:
        while os.getppid() == parent:
            time.sleep(_PARENT_CHECK_S)
        os._exit(1)

    if os.getppid() != parent:  # the parent has already ended
        os._exit(1)
    threading.Thread(target=look, daemon=True).start()
