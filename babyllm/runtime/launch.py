"""One command starts all processes of a run on this machine, and ends when they have.

    this process ----- the same command line, a rank each -----> children, which meet in a folder
         |  <----------------- exit statuses, what they told ----------'
    one line, one exit status

Nothing listens beyond the loopback interface. Signals are passed on, a child that fails ends the others, and no child
outlives this process.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Protocol, TypeVar

from babyllm.errors import UserError
from babyllm.machine import cores
from babyllm.runtime.config import RuntimeConfig
from babyllm.runtime.place import MEETING, PARENT, find_place, parent_process
from babyllm.runtime.processes import end_with
from babyllm.runtime.program import told
from babyllm.runtime.signals import heeded
from babyllm.runtime.watched import has_joined, last_seen

_LOOK_S = 0.1
# How long children may go on when one has failed: to see why, to tell it, to finish a save that has begun.
_GRACE_S = 45.0
# How long a child that fails waits for others to fail of the same.
_TELL_S = 0.5


class _Config(Protocol):
    @property
    def runtime(self) -> RuntimeConfig: ...


C = TypeVar("C", bound=_Config)


def launch(work: Callable[[C], None], config: C) -> None:
    """Do `work(config)` in each of `config.runtime.processes` processes, and return when all have done it.

    This process does the work itself where it is to be the only one or is one of several already: under torchrun, or
    started by this function, which starts the same command line again for each process.

    Raises:
        UserError: a process died or failed; it says which, and why.
        SystemExit: with the status of a process that failed and has said why itself; a signal ended them.
    """
    place, parent = find_place(), parent_process()
    if parent is not None:
        end_with(parent)
    n = config.runtime.processes or 1
    command = own_command()
    if place.is_given or n == 1 or command is None:
        work(config)
        return
    with ExitStack() as stack:
        meeting = stack.enter_context(_meeting())
        children = stack.enter_context(_started(command, n, meeting))
        _wait(children)
    children.conclude()


def own_command() -> list[str] | None:
    """The command line that started this program, to start it again; None where it runs inside another program."""
    original, argv = sys.orig_argv, sys.argv
    n_arguments = len(argv) - 1
    head = original[: len(original) - n_arguments]
    if len(head) < 2 or original[len(head) :] != argv[1:]:
        return None
    is_module = len(head) > 2 and head[-2] == "-m"
    return [sys.executable, *original[1:]] if is_module or head[-1] == argv[0] else None
