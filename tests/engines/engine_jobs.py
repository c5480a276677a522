"""Jobs for partitions, in a module that workers load at once."""

import os
import time
from collections.abc import Callable
from pathlib import Path


def wait_for(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def lasting_elsewhere(item: int, folder: Path, *, leader: int, mark: Path) -> int:
    """Work that never ends in a command other than the one that leads, which waits until another has begun."""
    del folder
    if os.getppid() != leader:
        mark.touch()
        time.sleep(1000)
    wait_for(mark.exists)
    return item


def squared(item: int, folder: Path, *, log: Path, sleep_s: float = 0.0) -> int:
    """Work that logs the process that started its own, and its item."""
    time.sleep(sleep_s)
    with log.open("a", encoding="utf-8") as file:
        print(os.getppid(), item, file=file, flush=True)
    (folder / "out.txt").write_text(str(item * item), encoding="utf-8")
    return item * item


def full(item: int, folder: Path, *, mark: Path) -> int:
    """Work that finds the disk full at item 3, until there is a file `mark`."""
    if item == 3 and not mark.exists():
        raise OSError(28, "No space left on device", str(folder / "out.txt"))
    return item


def dies(item: int, folder: Path, *, marks: Path, times: int) -> int:
    """Work whose process dies at item 1, so many times."""
    del folder
    if item == 1 and len(list(marks.glob("*"))) < times:
        (marks / f"{time.monotonic_ns()}").touch()
        os._exit(9)
    return item
