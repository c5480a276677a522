"""Where a drill works: a scratch folder, the worker that starts its processes, and what must be true of their end."""

from __future__ import annotations

import os
import re
import shutil
import signal
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.campaign.faults import BrokenPromise
from tests.support.worker import Worker

TIMEOUT_S = 8  # of the runs: a rank that is silent for so long ends them
GRACE_S = 45  # what else an end may take on a machine with other work
LIMIT_S = 180  # of a job that nobody disturbs
POLL_S = 0.001
_ERROR = re.compile(r"^(babyllm|train_\w+\.py): .*", re.M)
# What no user should read: tracebacks, and the frames that C++ libraries print.
_NOISE = re.compile(
    r"^.*(Traceback \(most recent call last\)|Fatal Python error|terminate called|frame #\d+: ).*$", re.M
)
_ABSENT = re.compile(r"rank ([\d, ]+)(?: of \d+)? did not start")
_OWN = re.compile(r"rank \d+(?:: | of )(?=.*could not meet the others)")
_NAMED = re.compile(r"rank \d+ \([^)]*pid (\d+)\)")


@dataclass(frozen=True)
class Ended:
    """How a job ended: processes and exit statuses by rank, negative for signals, and what all of it printed."""

    pids: list[int]
    statuses: list[int]
    output: str

    @property
    def errors(self) -> list[str]:
        """The lines that say to a user what went wrong."""
        return [match[0] for match in _ERROR.finditer(self.output)]

    def check(self, guilty: Collection[int] = ()) -> None:
        """Refuse tracebacks, more than one error line, and names of processes that are not `guilty`.

        Raises:
            BrokenPromise: there are such.
        """
        if noise := _NOISE.search(self.output):
            raise BrokenPromise(f"printed {noise[0].strip()!r}, ... {self.tail}")
        # Ranks that have no store in common cannot agree on who reports that they could not meet.
        if len({_OWN.sub("", line) for line in self.errors}) > 1:
            raise BrokenPromise(f"more than one error line: {self.errors}")
        if innocent := {int(pid) for pid in _NAMED.findall(self.output)} - set(guilty):
            raise BrokenPromise(f"names an innocent rank (pid {innocent}, at fault {list(guilty)}): {self.errors}")
        absent = {int(rank) for ranks in _ABSENT.findall(self.output) for rank in ranks.split(", ")}
        if absent - {rank for rank, pid in enumerate(self.pids) if pid in guilty}:
            raise BrokenPromise(f"says of an innocent rank that it did not start: {self.errors}")

    @property
    def tail(self) -> str:
        """The last lines of the output."""
        return " / ".join(self.output.strip().splitlines()[-4:])[-600:]


class Job:
    """Processes that the worker has started, each in a session of its own."""

    def __init__(self, worker: Worker, pids: list[int]) -> None:
        self.pids = pids
        self._worker = worker

    def alive(self) -> list[int]:
        """Those of the processes that have not ended."""
        return [pid for pid in self.pids if is_alive(pid)]

    def ended(self, limit_s: float, besides: Collection[int] = ()) -> Ended:
        """Wait for the end of all processes, the stopped ones `besides` excepted, which are killed then.

        Raises:
            BrokenPromise: some have not ended within the limit; nothing is left of them.
        """
        deadline = time.monotonic() + limit_s
        while (late := set(self.alive()) - set(besides)) and time.monotonic() < deadline:
            time.sleep(POLL_S)
        for pid in self.alive():
            send(pid, signal.SIGKILL)
        statuses = self._worker.wait()
        result = Ended(self.pids, statuses, self._worker.output.read_text(encoding="utf-8", errors="replace"))
        self._check_orphans()
        if late:
            ranks = [self.pids.index(pid) for pid in sorted(late)]
            raise BrokenPromise(f"hangs: ranks {ranks} had not ended after {limit_s:g} s; {result.tail}")
        return result

    def succeed(self) -> Ended:
        """Wait for an end that must be a good one.

        Raises:
            BrokenPromise: it is not.
        """
        result = self.ended(LIMIT_S)
        result.check()
        if any(result.statuses):
            raise BrokenPromise(f"left alone, it ends with status {result.statuses}: {result.tail}")
        return result

    def _check_orphans(self) -> None:
        deadline = time.monotonic() + GRACE_S
        while any(map(_has_members, self.pids)):
            if time.monotonic() > deadline:
                for pid in filter(_has_members, self.pids):
                    os.killpg(pid, signal.SIGKILL)
                raise BrokenPromise(f"processes of its own live on {GRACE_S} s after it")
            time.sleep(0.01)


def is_alive(pid: int) -> bool:
    """Whether a process is there and has not ended."""
    return _field(pid, 0) not in ("", "Z", "X")


def children(pid: int) -> list[int]:
    """The processes that a process has started, without what Python itself needs for that."""
    return [other for other in _processes() if _field(other, 1) == str(pid) and not _is_tracker(other)]


def _is_tracker(pid: int) -> bool:
    try:
        return b"resource_tracker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return True


def _has_members(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return any(_field(pid, 2) == str(group) and is_alive(pid) for pid in _processes())


def _processes() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def _field(pid: int, number: int) -> str:
    """A field of /proc/PID/stat: 0 is the state, 1 the parent, 2 the group; "" where the process is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[number]
    except (OSError, IndexError):
        return ""


def send(pid: int, signum: int) -> bool:
    """Send a signal to a process; returns whether it was there to get it."""
    was_alive = is_alive(pid)
    with suppress(ProcessLookupError):
        os.kill(pid, signum)
    return was_alive


def catches(pid: int, signum: int) -> bool:
    """Whether a process has a handler for a signal."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return False
    caught = re.search(r"^SigCgt:\s*([0-9a-f]+)", status, re.M)
    return bool(caught and int(caught[1], 16) >> (signum - 1) & 1)


class Bench:
    """A scratch folder and a worker.

    Attributes:
        root: The campaign's directory, the same for all benches.
        folder: Directory of the drill at work; empty at its beginning.
    """

    def __init__(self, root: Path, number: int) -> None:
        self.root = root
        self.folder = root / f"bench{number}" / "drill"
        self.folder.mkdir(parents=True)
        self._worker = Worker(self.folder.parent, ["tests.campaign.jobs"])

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._worker.__exit__(kind, error, at)

    def clear(self) -> None:
        """Empty the scratch folder."""
        shutil.rmtree(self.folder)
        self.folder.mkdir()

    def start(self, job: str, *arguments: str, ranks: int = 1, **more: Any) -> Job:
        """Begin a job of `jobs` in the scratch folder."""
        more |= {"arguments": list(arguments), "cwd": str(self.folder)}
        return Job(self._worker, self._worker.start(job, ranks=ranks, **more))


def wait_for(condition: Callable[[], bool], job: Job) -> bool:
    """Wait until the condition holds; returns whether it did before the job ended."""
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        if not job.alive() or time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True
