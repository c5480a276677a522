"""One command starts all processes of a run on this machine, and ends when they have ended.

    this process ----- the same command line, one rank each -----> children, which meet in a folder
         |  <----------- exit statuses, what they reported -----------'
    at most one line, one exit status

Nothing listens outside the loopback interface. Signals are passed on. A child that fails ends the others. No child
outlives this process.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import NamedTuple, Protocol, TypeVar

from babyllm.errors import UserError
from babyllm.runtime.config import RuntimeConfig, check
from babyllm.runtime.device import device_type
from babyllm.runtime.launching.place import MEETING, PARENT, find_place, parent_process
from babyllm.runtime.launching.processes import end_with
from babyllm.runtime.launching.program import told
from babyllm.runtime.launching.verdict import Record, record_key
from babyllm.runtime.machine import cores, physical_cores
from babyllm.runtime.rendezvous import FolderStore
from babyllm.runtime.signals import heeded

_LOOK_S = 0.1
# Seconds for which children may go on after one has failed: to find the reason, report it and finish a save.
_GRACE_S = 45.0
# Seconds for which the others may go on after a failure before all have started: they may fail for the same reason.
_TELL_S = 0.5
# With more processes, a CPU spends most of its time on summing gradients.
_MAX_ON_CPU = 4


class _Config(Protocol):
    @property
    def runtime(self) -> RuntimeConfig:
        """The section `runtime`."""
        ...


C = TypeVar("C", bound=_Config)


def launch(work: Callable[[C], None], config: C) -> None:
    """Do `work(config)` in each of `config.runtime.processes` processes, and return when all have done it.

    Each process is started with the command line of this one. A process does the work itself if it is the only one, or
    already one of several: started by torchrun or by this function.

    Raises:
        UserError: a process failed or died; the message says which, and why.
        SystemExit: a signal ended the processes, or one failed and has shown its own traceback.
    """
    parent = parent_process()
    if parent is not None:
        end_with(parent)
    n, command = config.runtime.processes or 1, own_command()
    if find_place().is_given or n == 1 or command is None:
        work(config)
        return
    try:
        folder = tempfile.TemporaryDirectory(prefix="babyllm-", ignore_cleanup_errors=True)
    except OSError as error:
        raise UserError(
            f"{tempfile.gettempdir()}: no folder can be made there ({error.strerror}); set TMPDIR to a disk with space"
        ) from error
    with folder as meeting:
        children = _Children(Path(meeting))
        with _signals_passed_on(children):
            try:
                children.start(command, n)
                _wait(children)
            finally:
                children.end(range(n))
        _conclude(children)


def own_command() -> list[str] | None:
    """The command line that started this program; None if it runs inside another program."""
    argv, original = sys.argv, sys.orig_argv
    head = original[: len(original) - len(argv) + 1]
    if len(head) < 2 or original[len(head) :] != argv[1:]:
        return None
    is_ours = head[-1] == argv[0] or (head[-2] == "-m" and head[-1].split(".")[0] == __name__.split(".")[0])
    return [sys.executable, *original[1:]] if is_ours else None


@dataclass
class _Children:
    """The child processes of a run, as their parent sees them.

    Attributes:
        meeting: the folder where they meet.
        processes: the child processes; an index is a rank.
        received: the signals that were passed on to them, in order.
        ended: the ranks that this process has killed.
        causes: the ranks that failed first.
    """

    meeting: Path
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    received: list[int] = field(default_factory=list)
    ended: set[int] = field(default_factory=set)
    causes: list[int] = field(default_factory=list)

    def start(self, command: list[str], n: int) -> None:
        """Start `n` processes of `command`, in sessions of their own: a terminal's signals reach only the parent."""
        for rank in range(n):
            environment = _environment(rank, n, self.meeting)
            self.processes.append(
                subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, start_new_session=True)
            )

    @property
    def is_interrupted(self) -> bool:
        """Whether Ctrl-C came twice; a child that waits in C++ code would take both for one."""
        return self.received.count(signal.SIGINT) > 1

    def running(self) -> list[int]:
        """Ranks whose process has not ended."""
        return [rank for rank, process in enumerate(self.processes) if process.poll() is None]

    def failed(self) -> list[int]:
        """Ranks that ended by themselves, with an error."""
        statuses = {rank: process.poll() for rank, process in enumerate(self.processes)}
        return [rank for rank, status in statuses.items() if status and rank not in self.ended]

    def send(self, signum: int) -> None:
        """Send a signal to all children that still run."""
        for rank in self.running():
            with suppress(OSError, ValueError):  # the child has just ended; Windows lacks most signals
                self.processes[rank].send_signal(signum)

    def end(self, ranks: range | list[int]) -> None:
        """Kill those of `ranks` that still run, and wait until they are gone."""
        for rank in set(ranks) & set(self.running()):
            self.ended.add(rank)
            self.processes[rank].kill()
        for rank in set(ranks) & self.ended:
            self.processes[rank].wait()

    def record(self, rank: int) -> Record | None:
        """The newest record of a rank; None before it has started."""
        stores = [FolderStore(folder) for folder in sorted(self.meeting.iterdir()) if folder.is_dir()]
        found = [store.get(record_key(rank)) for store in stores if store.check([record_key(rank)])]
        return Record(**json.loads(found[-1])) if found else None

    def have_met(self) -> bool:
        """Whether every rank has started; the work begins only then."""
        return all(self.record(rank) for rank in range(len(self.processes)))


def _environment(rank: int, n: int, meeting: Path) -> dict[str, str]:
    own = {
        "RANK": str(rank),
        "WORLD_SIZE": str(n),
        "LOCAL_RANK": str(rank),
        "LOCAL_WORLD_SIZE": str(n),
        MEETING: str(meeting),
        PARENT: str(os.getpid()),
    }
    defaults = {"OMP_NUM_THREADS": str(max(1, cores() // n)), "TORCH_CPP_LOG_LEVEL": "FATAL"}
    with suppress(OSError):
        loopback = [name for _, name in socket.if_nameindex() if name in ("lo", "lo0")]
        own |= {f"{library}_SOCKET_IFNAME": name for name in loopback for library in ("GLOO", "NCCL")}
    return {**defaults, **os.environ, **own}


@contextmanager
def _signals_passed_on(children: _Children) -> Iterator[None]:
    """Pass the signals of this process on to the children; suspend and continue them with this process."""

    def receive(signum: int, frame: FrameType | None) -> None:
        children.received.append(signum)
        children.send(signum)

    def suspend(signum: int, frame: FrameType | None) -> None:
        children.send(signal.SIGSTOP)
        os.kill(os.getpid(), signal.SIGSTOP)
        children.send(signal.SIGCONT)

    handlers: dict[int, Callable[[int, FrameType | None], None]] = dict.fromkeys(heeded(), receive)
    if hasattr(signal, "SIGTSTP"):  # Ctrl-Z
        handlers[signal.SIGTSTP] = suspend
    old = {signum: signal.signal(signum, handler) for signum, handler in handlers.items()}
    try:
        yield
    finally:
        for signum, former in old.items():
            signal.signal(signum, former)


def _wait(children: _Children) -> None:
    """Wait until all children have ended; after a failure, kill those that do not end in time."""
    failed_at = None
    while children.running():
        time.sleep(_LOOK_S)
        if failed_at is None and (failed := children.failed()):
            failed_at, children.causes = time.monotonic(), failed
        failed_s = 0.0 if failed_at is None else time.monotonic() - failed_at
        if failed_at is not None:
            children.end(told(children.meeting, len(children.processes))[1])
        is_early = (children.received or failed_s >= _TELL_S) and not children.have_met()
        if is_early or failed_s >= _GRACE_S or children.is_interrupted:
            children.end(children.running())


def _conclude(children: _Children) -> None:
    """Return if all children succeeded, else raise the error that explains the failure."""
    failed, received = children.failed(), children.received
    line, _ = told(children.meeting, len(children.processes))
    statuses = {rank: process.returncode for rank, process in enumerate(children.processes)}
    unasked = [rank for rank in failed if statuses[rank] != 130 and -statuses[rank] not in received]
    if received and not line and any(statuses.values()) and (children.is_interrupted or not unasked):
        raise SystemExit(128 + received[-1])
    if died := [rank for rank in children.causes or failed if statuses[rank] < 0]:
        raise UserError("; ".join(_how_it_died(rank, children) for rank in died))
    if line:
        raise UserError(line)
    if failed:
        raise SystemExit(statuses[(children.causes or failed)[0]])


def _how_it_died(rank: int, children: _Children) -> str:
    process, record = children.processes[rank], children.record(rank)
    number = -process.returncode
    name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
    reason = f"{name} (out of memory?)" if name == "SIGKILL" else name
    who = str(record) if record else f"rank {rank} (pid {process.pid})"
    return f"{who} died of {reason}, {record.last_seen if record else 'before it had started'}"


# ---- the number of processes


class Needs(NamedTuple):
    """What the division of a model asks of the number of processes.

    Attributes:
        sharing: number of processes that train on the same rows.
        multiple: number of which the number of processes is a multiple.
        flags: the flags that ask for it, for messages.
    """

    sharing: int = 1
    multiple: int = 1
    flags: str = ""


NO_NEEDS = Needs()


def choose_processes(
    config: RuntimeConfig, global_batch: int, stored: int | None, needs: Needs = NO_NEEDS
) -> tuple[int, str]:
    """The number of processes on this machine, and a line to log if a resumed run had another number.

    Args:
        config: the section `runtime`, which may ask for a number.
        global_batch: rows of an optimizer step; processes that train on other rows divide it.
        stored: the number of processes that a resumed run has had; None for a new run.
        needs: what else the number has to be; on a CPU more are started than there are cores if it asks for them.

    Raises:
        UserError: this machine cannot run so many processes.
    """
    check(config)
    place, device = find_place(), device_type(config.device)
    if place.is_given:
        return place.local_world_size, ""
    most = _most(device)
    if config.processes is not None:
        _require_startable(config.processes, device, most)
        return config.processes, ""
    is_free = device == "cpu" and _can_start()
    most = most if _can_start() else 1
    wanted = most if stored is None else stored if is_free else min(stored, most)
    if needs.multiple > most and not is_free:
        raise UserError(
            f"{needs.flags}: needs a multiple of {needs.multiple} processes, and here it can have {most}; "
            "give smaller numbers, or start the processes of several machines with torchrun"
        )
    n = _number_of_processes(global_batch, max(wanted, needs.multiple), needs)
    if stored is None or n == stored:
        return n, ""
    return n, f"the run has had {stored} processes, here it {'can have' if n < stored else 'needs'} {n}"


def _require_startable(n: int, device: str, most: int) -> None:
    """Refuse a number of processes that was asked for."""
    if n > 1 and sys.platform == "win32":
        raise UserError(f"runtime.processes={n}: on Windows a run is one process here; leave it out")
    if device != "cpu" and n > most:
        raise UserError(f"runtime.processes={n}: this machine has {most} {device} devices; leave it out")
    if n > 1 and own_command() is None:
        raise UserError(
            f"runtime.processes={n}: only a program that was started by its own command line can start others; "
            "leave it out, or use torchrun"
        )


def _can_start() -> bool:
    """Whether this program can start others; on Windows those could not read files that are being replaced."""
    return sys.platform != "win32" and own_command() is not None


def _most(device: str) -> int:
    if device == "cuda":
        import torch

        return max(1, torch.cuda.device_count())
    if device == "mps":
        return 1
    return min(_MAX_ON_CPU, physical_cores())


def _number_of_processes(global_batch: int, most: int, needs: Needs) -> int:
    """The largest number up to `most` that is what it needs to be, and among which the rows divide evenly."""
    possible = range(needs.multiple, most + 1, needs.multiple)
    return max((n for n in possible if global_batch % (n // needs.sharing) == 0), default=needs.multiple)
