"""The disk of a run directory: how fast it is written, and whether all machines see the same one."""

from __future__ import annotations

import os
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from babyllm.runtime import Runtime

_BLOCK = 1 << 20
_PATIENCE_S = 10.0  # for which a network disk may hide new files


class Disk(NamedTuple):
    """The disk as one machine sees it.

    Attributes:
        error: why it cannot be used; empty if it can.
        speed: bytes per second written, until they lay on the disk.
        is_shared: whether the machine sees a file that rank 0 has written.
    """

    error: str
    speed: float
    is_shared: bool


def tested_disk(folder: Path, n_bytes: int, runtime: Runtime) -> Disk | None:
    """Write a file into a folder on every machine, and look for the one of rank 0; every rank must call it.

    Args:
        folder: folder that all machines use; made if it is absent, and removed again if it was.
        n_bytes: length of the file.
        runtime: this rank.

    Returns:
        The disk; None on other ranks than the first of a machine.
    """
    was_there, error, speed = folder.exists(), "", 0.0
    own = folder / f".doctor-{socket.gethostname()}-{runtime.rank}"
    mark = folder / ".doctor-0"
    is_first = runtime.local_rank == 0
    try:
        if is_first:
            folder.mkdir(parents=True, exist_ok=True)
            speed = _written(own, n_bytes)
            if runtime.is_main:
                mark.write_text("0", encoding="utf-8")
    except OSError as problem:
        error = f"{problem.filename or folder}: {problem.strerror}"
    runtime.barrier()
    is_shared = is_first and _appears(mark)
    runtime.barrier()
    with suppress(OSError):
        own.unlink(missing_ok=True)
        if runtime.is_main:
            mark.unlink(missing_ok=True)
    runtime.barrier()
    if is_first and not was_there:
        with suppress(OSError):
            folder.rmdir()
    return Disk(error, speed, is_shared) if is_first else None


def _written(file: Path, n_bytes: int) -> float:
    """Write a file that no disk can shorten, and return bytes per second."""
    block = os.urandom(_BLOCK)
    began = time.perf_counter()
    with file.open("wb") as output:
        for _ in range(max(1, n_bytes // _BLOCK)):
            output.write(block)
        output.flush()
        os.fsync(output.fileno())
    return max(1, n_bytes // _BLOCK) * _BLOCK / (time.perf_counter() - began)


def _appears(file: Path) -> bool:
    deadline = time.monotonic() + _PATIENCE_S
    while not file.exists():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
        with suppress(OSError):  # which makes a network disk look again
            os.listdir(file.parent)
    return True
