"""The store through which the processes of a run exchange short texts: a folder, or that of torch.distributed.

A folder is enough for one machine, and no other user can reach it. Each key is a file that is replaced as a whole.
So a reader never sees half of a value, and the folder does not grow with the length of the run.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

from babyllm.errors import UserError
from babyllm.runtime.signals import StopSignal

T = TypeVar("T")
# Seconds that a request may take beyond its own limit on a loaded machine.
GRACE_S = 10.0


class Unanswered(UserError):
    """The store does not answer. A thread still waits for it in C++, which aborts if the interpreter ends now.

    The message is empty if this process was asked to stop. The others were asked too, and one of them reports it.
    """


class Store(Protocol):
    """The methods of a store that this package uses; torch's `TCPStore` has them too."""

    def set(self, key: str, value: str) -> None:
        """Set the value of a key; a value that it had is replaced."""
        ...

    def check(self, keys: list[str]) -> bool:
        """Whether all of `keys` have a value."""
        ...

    def get(self, key: str) -> bytes:
        """The value of a key; the key must have one."""
        ...

    def multi_get(self, keys: list[str]) -> list[bytes]:
        """The values of keys, in their order; all must have one."""
        ...

    def add(self, key: str, amount: int) -> int:
        """Add `amount` to a counter that begins at 0, and return the sum; no two callers get the same sum."""
        ...


class FolderStore:
    """A `Store` whose keys are files of one folder."""

    def __init__(self, folder: Path) -> None:
        """Create the folder if it is absent; only this user may read it."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = folder

    def set(self, key: str, value: str) -> None:
        """Set the value of a key; a value that it had is replaced."""
        temporary = self._folder / f".{_file_name(key)}.{os.getpid()}.{threading.get_ident()}"
        temporary.write_text(value, encoding="utf-8")
        os.replace(temporary, self._folder / _file_name(key))

    def check(self, keys: Sequence[str]) -> bool:
        """Whether all of `keys` have a value."""
        return all((self._folder / _file_name(key)).exists() for key in keys)

    def get(self, key: str) -> bytes:
        """The value of a key; the key must have one."""
        return (self._folder / _file_name(key)).read_bytes()

    def multi_get(self, keys: Sequence[str]) -> list[bytes]:
        """The values of keys, in their order; all must have one."""
        return [self.get(key) for key in keys]

    def add(self, key: str, amount: int) -> int:
        """Add `amount`, at least 1, to a counter that begins at 0, and return the sum."""
        reached = 0
        for _ in range(amount):
            while True:
                reached += 1
                try:
                    (self._folder / f"{_file_name(key)}.{reached}").touch(exist_ok=False)
                    break
                except FileExistsError:
                    continue
        return reached


def answer(ask: Callable[[], T], timeout_s: float, stop: StopSignal, who: str, keeper: str, address: str) -> T:
    """What `ask` returns, called in a thread: the `TCPStore` of a suspended process connects and never answers.

    Args:
        ask: a function that talks to the store.
        timeout_s: seconds that it may take; `GRACE_S` is added, since `ask` may have a timeout of its own.
        stop: the stop signal; the waiting ends a second after it came.
        who: the process that asks, for messages.
        keeper: the holder of the store, for messages.
        address: the address of the store, for messages.

    Raises:
        Unanswered: no answer came.
        Exception: whatever `ask` raises.
    """
    answers: list[T] = []
    errors: list[Exception] = []

    def body() -> None:
        try:
            answers.append(ask())
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=body, daemon=True)
    thread.start()
    end = time.monotonic() + timeout_s + GRACE_S
    while thread.is_alive() and time.monotonic() < end:
        thread.join(0.05)
        if stop.is_set:
            thread.join(1.0)
            break
    for error in errors:
        raise error
    for found in answers:
        return found
    if stop.is_set:
        raise Unanswered
    raise Unanswered(
        f"{who} could not meet the others at {address} within {timeout_s:g} s: {keeper} keeps the store where ranks "
        "meet and does not answer"
    )


def _file_name(key: str) -> str:
    return key.replace("/", "-")
