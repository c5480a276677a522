"""How many processes of a run work on this machine."""

from __future__ import annotations

import sys

from babyllm.errors import UserError
from babyllm.machine import physical_cores
from babyllm.runtime.config import RuntimeConfig, check
from babyllm.runtime.device import device_type
from babyllm.runtime.launch import own_command
from babyllm.runtime.place import find_place

# More of them spend most of their time on adding gradients up.
_MAX_ON_CPU = 4


def choose_processes(config: RuntimeConfig, global_batch: int, stored: int | None) -> tuple[int, str]:
    """The number of processes on this machine, and a line where it is not what the run had.

    Args:
        config: that asks for a number or for none.
        global_batch: of which every process must get an equal part.
        stored: what a run that goes on has had; None for a new one.

    Raises:
        UserError: so many cannot work here.
    """
    check(config)
    place, device = find_place(), device_type(config.device)
    if place.is_given:
        return place.local_world_size, ""
    most = _most(device)
    if config.processes is not None:
        if config.processes > 1 and sys.platform == "win32":
            raise UserError(f"runtime.processes={config.processes}: on Windows a run is one process here; leave it out")
        if device != "cpu" and config.processes > most:
            raise UserError(
                f"runtime.processes={config.processes}: this machine has {most} {device} devices; leave it out"
            )
        if config.processes > 1 and own_command() is None:
            raise UserError(
                f"runtime.processes={config.processes}: only a program that was started by its own command line can "
                "start others; leave it out, or use torchrun"
            )
        return config.processes, ""
    if not _can_start():
        most = 1
    if stored is None:
        return _divisor(global_batch, most), ""
    n = _divisor(global_batch, stored if device == "cpu" and _can_start() else min(stored, most))
    return n, "" if n == stored else f"the run has had {stored} processes, here it can have {n}"


def _can_start() -> bool:
    """Whether this program can start others, which on Windows could not read files while they are replaced."""
    return sys.platform != "win32" and own_command() is not None


def _most(device: str) -> int:
    if device == "cuda":
        import torch

        return max(1, torch.cuda.device_count())
    if device == "mps":
        return 1
    return min(_MAX_ON_CPU, physical_cores())


def _divisor(total: int, most: int) -> int:
    """The largest number up to `most` that divides `total`."""
    return max((n for n in range(1, most + 1) if total % n == 0), default=1)
