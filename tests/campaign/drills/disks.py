"""Full disks: a job runs out of space or out of a file's size, says so in one line, and goes on once there is room.

small disk, or a limit on files -> job -> status 1 and one line -> room -> the same command again -> compare
"""

from __future__ import annotations

import random
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.campaign.bench import LIMIT_S, Bench, Ended, Job
from tests.campaign.drills.stages import STAGES
from tests.campaign.faults import BrokenPromise, Outcome
from tests.campaign.materials import material
from tests.campaign.references import compare, reference
from tests.campaign.runs import RUNS, Setup, check_end

SPARE = 1.5  # what a job needs at once, at most, over what it leaves


@dataclass(frozen=True)
class Task:
    """A training run, or else a corpus stage, in one process."""

    name: str

    def start(self, bench: Bench, file_bytes: int | None = None) -> Job:
        """Begin it, or go on with it."""
        limit: dict[str, Any] = {} if file_bytes is None else {"file_bytes": file_bytes}
        if self.name in RUNS:
            return Setup(self.name, "often", 1).start(bench, **limit)
        if not (bench.folder / "in").exists():
            shutil.copytree(material(bench, STAGES[self.name].source), bench.folder / "in")
        return STAGES[self.name].start(bench, 1, **limit)

    @property
    def target(self) -> str:
        """The folder it writes, in the scratch folder."""
        return "run" if self.name in RUNS else "out"

    def check(self, mine: Path, theirs: Path) -> None:
        """Refuse results that are not those of the reference."""
        if self.name in RUNS:
            check_end(mine / "run", theirs / "run")
        else:
            result = STAGES[self.name].result
            compare(mine / result, theirs / result)


def fill_disk(rng: random.Random, bench: Bench) -> Outcome:
    """Let a job meet the end of its disk, or of what a file may hold."""
    task = Task(rng.choice(sorted([*RUNS, *STAGES])))
    alone = reference(bench, f"{task.name} on a disk", lambda: task.start(bench).succeed())
    sizes = [path.stat().st_size for path in (alone.folder / task.target).rglob("*") if path.is_file()]
    share = rng.random()
    is_limit = rng.random() < 0.4
    n_bytes = round(share * (max(sizes) if is_limit else SPARE * sum(sizes)))
    what = f"{task.name}, {'files' if is_limit else 'a disk'} of at most {n_bytes} bytes"
    try:
        if is_limit:
            _check(task.start(bench, n_bytes).ended(LIMIT_S))
            task.start(bench).succeed()
            task.check(bench.folder, alone.folder)
        else:
            with _disk(bench.folder / task.target, n_bytes) as grow:
                if grow is None:
                    return Outcome("skipped", f"{what}: mounting a disk is not allowed here")
                _check(task.start(bench).ended(LIMIT_S))
                grow()
                task.start(bench).succeed()
                task.check(bench.folder, alone.folder)
    except BrokenPromise as broken:
        raise BrokenPromise(f"{what}: {broken}") from broken
    return Outcome("held", what)


def _check(ended: Ended) -> None:
    """A full disk is one line and status 1; a disk that was large enough is neither."""
    ended.check()
    if ended.statuses != [0] and (ended.statuses != [1] or not ended.errors):
        raise BrokenPromise(f"ends with status {ended.statuses} and {ended.errors}: {ended.tail}")


@contextmanager
def _disk(at: Path, n_bytes: int) -> Iterator[Any]:
    """A disk of `n_bytes` in memory, mounted at `at` while the body runs.

    Yields:
        What makes it large; None if mounting is not allowed.
    """
    at.mkdir()
    size = max(4096, n_bytes)
    if _mount(f"size={size}", "tmpfs", at):
        yield None
        return
    try:
        yield lambda: _mount("remount,size=1g", "tmpfs", at)
    finally:
        subprocess.run(["umount", "--lazy", str(at)], check=True)


def _mount(options: str, kind: str, at: Path) -> int:
    try:
        return subprocess.run(["mount", "-t", kind, "-o", options, kind, str(at)], capture_output=True).returncode
    except OSError:
        return 1
