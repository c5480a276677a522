"""Processing of partitions: on all cores, in bounded memory, and each partition only once.

items -> one folder each: job(item, folder) writes files and returns a JSON value -> done.json, rename -> results

A folder gets its number as its name when it is complete, so a command that was stopped or killed continues with the
remaining items. `job` is a pure function of its item: the process and the order of the items change nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import astuple, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from babyllm.config.values import Count, Few
from babyllm.errors import UserError
from babyllm.files import fsync, read_sealed_json, write_sealed_json
from babyllm.pipeline.engines.job_engine import Engine
from babyllm.pipeline.engines.local_pool import ATTEMPTS, LocalPool, worker_died
from babyllm.pipeline.engines.presence import LEAD, QUEUE, unique_name
from babyllm.progress import ProgressLine
from babyllm.runtime.config import CacheConfig
from babyllm.runtime.machine import cores, is_array_task

if TYPE_CHECKING:  # help about commands loads this module
    from babyllm.pipeline.step_times import Cost

T = TypeVar("T")
DONE = "done.json"
Done = tuple[Any, "Cost"]
"""The result of an item and what it cost."""
_SEEN_AFTER_S = 90.0  # in which a network disk shows what other machines have written


@dataclass(frozen=True)
class WorkConfig:
    """How an offline command uses the machine, or several.

    Attributes:
        workers: number of processes; null takes one per core of this machine, or all cores of a Ray cluster.
        partition_bytes: bytes of input that a process works on at a time, which bounds its memory.
        engine: place where the processes run. local: on this machine. ray: on a Ray cluster. shared: on all machines
            where the same command runs, which share the disk of OUT. null: shared in a Slurm array, else local. The
            output is the same.
        cache: local copies of inputs in object stores, and of outputs that are not uploaded yet.
    """

    workers: Few | None = None
    partition_bytes: Count = 64 << 20
    engine: Literal["local", "ray", "shared"] | None = None
    cache: CacheConfig = field(default_factory=CacheConfig)

    def alone(self) -> WorkConfig:
        """The same for work that this process does by itself."""
        return replace(self, workers=1, engine="local")

    def chosen_engine(self) -> str:
        """The engine, where null stands for the one that suits this job."""
        return self.engine or ("shared" if is_array_task() else "local")


def run_partitions(
    items: Sequence[T],
    job: Callable[[T, Path], Any],
    directory: Path,
    *,
    key: Any,
    work: WorkConfig | None = None,
    sizes: Sequence[int] | None = None,
    title: str = "",
) -> list[Any]:
    """The result of `job(item, folder)` for every item, in their order.

    Args:
        items: items to work on, which are pickled for the worker processes.
        job: function of a module, or `functools.partial` of one. It may write files to `folder`, which is empty, and
            returns a JSON value.
        directory: directory of the results: a folder 00000, 00001, ... per item, with its files and `done.json`.
        key: JSON value that the results depend on besides the items: configuration and inputs. Folders made with
            another key are redone.
        work: use of the machine; one local worker works in this process.
        sizes: sizes of the items, for the progress line; None counts all items alike.
        title: title of the progress line, such as "clean".

    Raises:
        UserError: `job` raised it, its worker died at each of several attempts, or the disk is full.
    """
    from babyllm.pipeline.step_times import Cost, note_step

    work = work or WorkConfig()
    directory.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    weights = [1] * len(items) if sizes is None else list(sizes)
    results: dict[int, Done] = {}
    for index in range(len(items)):
        found = _finished(directory / f"{index:05d}", digest)
        if found is not None:
            results[index] = found["result"], Cost(*found.get("cost", (0.0, 0.0, 0)))
    missing = [index for index in range(len(items)) if index not in results]
    done, total = sum(weights[i] for i in results), sum(weights)
    progress = ProgressLine(title, total, done, output=sys.stderr)
    jobs = ((i, (job, items[i], directory / f"{i:05d}", digest)) for i in missing)
    engine = _engine(work, len(missing), directory)
    for index, result in _in_turn(jobs) if engine is None else _by(engine, jobs, progress.message):
        results[index] = result
        done += weights[index]
        progress.show(done, engine.status() if engine else "")
    progress.end()
    if engine is not None and not isinstance(engine, LocalPool):
        _wait_until_seen([directory / f"{index:05d}" for index in missing], digest)
    done_in_order = [results[index] for index in range(len(items))]
    note_step(
        directory.name if not title else title.partition(":")[0], items, [cost for _, cost in done_in_order], sizes
    )
    return [result for result, _ in done_in_order]


def _engine(work: WorkConfig, n_jobs: int, directory: Path) -> Engine | None:
    """The engine for some jobs; None does them in this process."""
    n_workers, kind = work.workers or cores(), work.chosen_engine() if n_jobs > 1 else "local"
    if kind == "ray":
        from babyllm.pipeline.engines.ray_cluster import RayCluster

        return RayCluster(work.workers)
    if kind == "shared":
        from babyllm.pipeline.engines.shared_queue import SharedQueue

        # This process leads in the work directory of OUT, the outermost one if a stage has stages of its own.
        queues = [place / QUEUE for place in (directory, *directory.parents) if (place / QUEUE / LEAD).is_file()]
        if queues:
            return SharedQueue(queues[-1], n_workers)
    return LocalPool(min(n_workers, n_jobs)) if min(n_workers, n_jobs) > 1 else None


def _finished(folder: Path, digest: str) -> dict[str, Any] | None:
    try:
        done = read_sealed_json(folder / DONE)
    except (OSError, ValueError):
        return None
    return done if done.get("key") == digest else None


def not_written(place: Path, error: OSError) -> UserError:
    """The error of a command that cannot write to `place`, or to the file that `error` names."""
    return UserError(
        f"{error.filename or place}: cannot be written ({error.strerror or error}); free some space or repair it, "
        "then start the same command again; it goes on with what is left"
    )


def _carry_out(job: Callable[[T, Path], Any], item: T, folder: Path, digest: str) -> Done:
    """The result of `job` for one item, and its cost, in a folder that gets its final name when it is complete."""
    # No other process has this name: one whose parent was killed, or another machine, may work on the same item.
    unfinished = folder.with_name(f".{folder.name}-{unique_name()}")
    from babyllm.pipeline.step_times import Stopwatch

    watch = Stopwatch()
    try:
        unfinished.mkdir()
        result = job(item, unfinished)
        cost = watch.cost()
        write_sealed_json(unfinished / DONE, {"key": digest, "result": result, "cost": astuple(cost)})
        _put_in_place(unfinished, folder, digest)
    except OSError as error:
        raise not_written(folder, error) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return result, cost


def _put_in_place(unfinished: Path, folder: Path, digest: str) -> None:
    """Move a complete folder to its final name, unless another machine was faster, whose folder is equal."""
    if _finished(folder, digest) is None:
        shutil.rmtree(folder, ignore_errors=True)
        try:
            os.rename(unfinished, folder)
        except OSError:
            if _finished(folder, digest) is None:
                raise
        fsync(folder.parent)


def _carry_out_there(job: Callable[[T, Path], Any], item: T, folder: Path, digest: str) -> Done:
    """The same on a machine that perhaps has not seen yet what others have written."""
    for step in (folder.parent, *folder.parent.parent.glob("*/")):
        _look_again(step)
    return _carry_out(job, item, folder, digest)


def _look_again(directory: Path) -> None:
    """Make a network disk show a directory as it is: it keeps a list for up to a minute, but not after a change."""
    change = directory / f".{unique_name()}"
    with suppress(OSError):
        change.touch()
        change.unlink()


Job = tuple[int, tuple[Any, ...]]


def _in_turn(jobs: Iterable[Job]) -> Iterator[tuple[int, Done]]:
    for index, arguments in jobs:
        yield index, _carry_out(*arguments)


def _by(engine: Engine, jobs: Iterator[Job], say: Callable[[str], None]) -> Iterator[tuple[int, Done]]:
    """The results of jobs in the order in which an engine finishes them."""
    function = _carry_out if isinstance(engine, LocalPool) else _carry_out_there
    running: dict[Future[Any], Job] = {}
    again: list[Job] = []
    n_deaths: Counter[int] = Counter()
    is_finished = False
    try:
        while True:
            while len(running) < engine.ahead() and (job := again.pop() if again else next(jobs, None)):
                running[engine.submit(function, *job[1])] = job
            if not running:
                is_finished = True
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                job = running.pop(future)
                if isinstance(future.exception(), BrokenProcessPool):
                    n_deaths[job[0]] += 1
                    _require_retry(engine, n_deaths[job[0]], job, say)
                    again.append(job)
                else:
                    yield job[0], future.result()
    finally:
        engine.close(not is_finished)


def _require_retry(engine: Engine, n_deaths: int, job: Job, say: Callable[[str], None]) -> None:
    """Report that the worker of a job died.

    Raises:
        UserError: it died too often, or workers cannot start.
    """
    if isinstance(engine, LocalPool):
        engine.check_started()
    folder: Path = job[1][2]
    where = f"{folder.parent.name}/{folder.name}"
    if n_deaths == ATTEMPTS:
        raise worker_died(f"{where}: {n_deaths} worker processes died, one after the other, at this part of the work")
    say(f"{where}: the worker process died (attempt {n_deaths} of {ATTEMPTS}); another one tries again")


def _wait_until_seen(folders: Sequence[Path], digest: str) -> None:
    """Wait until this machine sees the folders that others have finished.

    Raises:
        UserError: a folder does not appear, since the machines do not share the disk.
    """
    deadline = time.monotonic() + _SEEN_AFTER_S
    for folder in folders:
        while _finished(folder, digest) is None:
            if time.monotonic() > deadline:
                raise UserError(
                    f"{folder}: was finished by another machine and is not seen here; OUT must lie on a disk that all "
                    "machines share, under the same path"
                )
            _look_again(folder.parent)
            time.sleep(0.5)
