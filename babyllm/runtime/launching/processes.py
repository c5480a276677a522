"""What the operating system knows of processes: whether one still runs, and how one ends with its parent."""

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
    """A text that is the same for two processes if each can see the other by its id; empty where none can."""
    if os.name == "nt":  # there a look at a process by os.kill would end it
        return ""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return "" if sys.platform == "linux" else socket.gethostname()


def is_running(pid: int) -> bool:
    """Whether a process of this `process_space` has not ended; one that is suspended runs."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    with suppress(OSError, IndexError):  # one that has ended stays in the table until its parent has looked
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] not in ("Z", "X")
    return True


def end_with(parent: int) -> None:
    """Let this process be killed as soon as its parent, the process `parent`, has ended in whatever way."""
    if sys.platform == "linux":
        set_parent_death_signal = 1  # prctl(2)
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)

    def look() -> None:
        while os.getppid() == parent:
            time.sleep(_PARENT_CHECK_S)
        os._exit(1)

    if os.getppid() != parent:  # it had ended before
        os._exit(1)
    threading.Thread(target=look, daemon=True).start()
