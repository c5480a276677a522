"""Where the processes of a run leave short texts for each other: a folder, or the store of torch.distributed.

A folder is enough for one machine, and nobody else can reach it. Each key is a file that is replaced as a whole, so a
reader never sees half of a value, and beats of weeks take no more room than one.
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
# How much longer than its own limit a question may take on a loaded machine.
GRACE_S = 10.0


class Unanswered(UserError):
    """A store does not answer, and a thread waits for it inside C++, which aborts if the interpreter ends around it.

    It says nothing where this process was asked to stop: so were the others, and one that has the store tells it.
    """


class Store(Protocol):
    """What this package uses of a store; a `TCPStore` has it too."""

    def set(self, key: str, value: str) -> None:
        """Put `value` in the place of what was there."""
        ...

    def check(self, keys: list[str]) -> bool:
        """Whether all of `keys` are there."""
        ...

    def get(self, key: str) -> bytes:
        """The value of a key that is there."""
        ...

    def multi_get(self, keys: list[str]) -> list[bytes]:
        """The values of keys that are there."""
        ...

    def add(self, key: str, amount: int) -> int:
        """Add `amount` to a counter that begins at 0, and return the sum; two callers never get the same."""
        ...


class FolderStore:
    """A `Store` whose keys are files of one folder."""

    def __init__(self, folder: Path) -> None:
        """Make the folder if it is not there; only this user may look into it."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = folder

    def set(self, key: str, value: str) -> None:
        """Put `value` in the place of what was there."""
        temporary = self._folder / f".{_file_name(key)}.{os.getpid()}.{threading.get_ident()}"
        temporary.write_text(value, encoding="utf-8")
        os.replace(temporary, self._folder / _file_name(key))

    def check(self, keys: Sequence[str]) -> bool:
        """Whether all of `keys` are there."""
        return all((self._folder / _file_name(key)).exists() for key in keys)

    def get(self, key: str) -> bytes:
        """The value of a key that is there."""
        return (self._folder / _file_name(key)).read_bytes()

    def multi_get(self, keys: Sequence[str]) -> list[bytes]:
        """The values of keys that are there."""
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
    """What `ask` returns, asked in a thread: a `TCPStore` of a suspended process takes connections and never answers.

    Args:
        ask: talks to a store.
        timeout_s: how long it may take; some seconds more are allowed for what has a limit of its own.
        stop: ends the waiting a second after its signal came.
        who: asks, for messages.
        keeper: what keeps the store, for messages.
        address: of the store, for messages.

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
