"""A program as a child process in a session of its own, whose output goes to a file.

A terminal's signals reach only this process, which passes on what it wants to. A babyllm run ends with this process.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from babyllm.runtime.launching.place import PARENT

OWN_PROGRAM = (sys.executable, "-u", "-m", "babyllm")
"""The command `babyllm` in the Python of this process; without buffers, so that its output is in order."""


def start_child(command: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    """Start a program.

    Args:
        command: program and arguments.
        log: file to which what it prints is appended.

    Raises:
        OSError: the program or the file cannot be opened.
    """
    with log.open("ab") as output:
        return subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, PARENT: str(os.getpid())},
            start_new_session=True,
        )


def ask_to_stop(process: subprocess.Popen[bytes]) -> None:
    """Send Ctrl-C to a child, which a run answers by saving its step."""
    with suppress(OSError, ValueError):  # it has just ended
        process.send_signal(signal.SIGINT)


def end_child(process: subprocess.Popen[bytes]) -> None:
    """Kill a child if it still runs, and wait until it is gone."""
    with suppress(OSError):
        process.kill()
    process.wait()


def last_words(log: Path, status: int) -> str:
    """The reason why a child has failed: the last line that it printed, or the signal that ended it."""
    if status < 0:
        known = {each.value: each.name for each in signal.Signals}
        name = known.get(-status, f"signal {-status}")
        return f"{name} ended it{' (out of memory?)' if name == 'SIGKILL' else ''}"
    with suppress(OSError):
        lines = log.read_bytes()[-(1 << 16) :].decode(errors="replace").splitlines()
        for line in reversed(lines):
            if line.strip():
                return line.strip().removeprefix("babyllm: ")
    return f"exit status {status}"
