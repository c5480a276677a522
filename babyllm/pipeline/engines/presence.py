"""Which processes of several machines are alive, by files that each one renews in a folder of a shared disk.

No clocks are compared: a process is silent once its file has not changed for a while, as the one that looks sees it.
A renewal also makes a network disk show this machine the folder as it is, and not as it was half a minute before.
"""

from __future__ import annotations

import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from babyllm.errors import UserError

BEAT_S = 2.0  # time between renewals
SILENCE_S = 30.0  # time without renewals after which a process counts as dead
QUEUE, LEAD = "queue", "lead"  # folder in the work directory of an output; file with the name of the one that leads
_BEAT = "beat."


def unique_name() -> str:
    """A name that no other process has, on any machine: host, process id and a random part, without dots."""
    return f"{_host()}-{os.getpid()}-{secrets.token_hex(4)}"


def _host() -> str:
    return socket.gethostname().replace(".", "_").replace("/", "_")


def write_at_once(path: Path, content: bytes) -> None:
    """Write a small file that readers find complete or not at all; it need not outlast a power failure."""
    temporary = path.with_name(f".{unique_name()}")
    temporary.write_bytes(content)
    os.replace(temporary, path)


@contextmanager
def beating(folder: Path, name: str, n_workers: int) -> Iterator[None]:
    """Renew the file of the process `name` in `folder` while the body runs."""
    is_over, path = threading.Event(), folder / f"{_BEAT}{name}"

    def beat() -> None:
        number = 0
        while not is_over.wait(BEAT_S if number else 0):
            number += 1
            with suppress(OSError):  # the folder may be deleted, and a full disk is reported by the work itself
                write_at_once(path, f"{number} {n_workers}".encode())

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
        path.unlink(missing_ok=True)


class Watch:
    """What this process has seen of the others.

    Args:
        folder: folder of their files.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._seen: dict[str, tuple[str, float]] = {}

    def is_silent(self, name: str) -> bool:
        """Whether the process `name` has not renewed its file for `SILENCE_S` seconds of looking."""
        content, now = _beat_of(self._folder, name), time.monotonic()
        before = self._seen.get(name)
        if before is None or before[0] != content:
            self._seen[name] = content, now
            return False
        return now - before[1] > SILENCE_S

    def workers(self) -> dict[str, int]:
        """The number of workers of each process that is not silent."""
        names = [path.name.removeprefix(_BEAT) for path in self._folder.glob(f"{_BEAT}*")]
        return {name: int(self._seen[name][0].split()[-1]) for name in names if self._is_there(name)}

    def _is_there(self, name: str) -> bool:
        return not self.is_silent(name) and bool(self._seen[name][0])


def _beat_of(folder: Path, name: str) -> str:
    try:
        return (folder / f"{_BEAT}{name}").read_text(encoding="utf-8")
    except OSError:
        return ""


def leader(folder: Path) -> str | None:
    """The name of the process that leads; None if none does."""
    try:
        return (folder / LEAD).read_text(encoding="utf-8") or None
    except OSError:
        return None


def require_own(folder: Path) -> None:
    """Refuse a folder in which another account may write: the work that lies in it is unpickled, so it may be any code.

    Raises:
        UserError: it belongs to another account, or others may write there.
    """
    if not hasattr(os, "getuid"):
        return
    with suppress(FileNotFoundError):  # the command that led has ended
        found = folder.stat()
        if found.st_uid != os.getuid() or found.st_mode & 0o022:
            raise UserError(
                f"{folder}: another account may write there, and the work that lies in it is run; delete it, or choose "
                "another OUT"
            )


def take_lead(folder: Path, name: str) -> bool:
    """Become the process that leads, unless another one does and lives; this may take `SILENCE_S` seconds.

    The caller holds a lock that a process of the same machine would respect; other machines perhaps do not see it.
    """
    folder.mkdir(mode=0o700, exist_ok=True)
    try:
        with (folder / LEAD).open("x", encoding="utf-8") as file:  # fails if there is one, on all machines alike
            file.write(name)
        return True
    except FileExistsError:
        before = leader(folder) or ""
    if not before.startswith(f"{_host()}-") and _lives(folder, before):
        return False
    write_at_once(folder / LEAD, name.encode())
    time.sleep(BEAT_S / 4)  # another process may do the same
    return leader(folder) == name


def _lives(folder: Path, name: str) -> bool:
    """Whether the process that leads, or its successor, renews its file while this one looks."""
    watch, first = Watch(folder), _beat_of(folder, name)
    print(f"waits up to {SILENCE_S:.0f} s to see whether {name}, which began this work, still lives", file=sys.stderr)
    while not watch.is_silent(name):
        if (leader(folder) or "") != name or _beat_of(folder, name) != first:
            return True
        time.sleep(BEAT_S / 4)
    return False


def give_up_lead(folder: Path, name: str) -> None:
    """Let another process lead."""
    if leader(folder) == name:
        (folder / LEAD).unlink(missing_ok=True)
