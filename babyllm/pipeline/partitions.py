"""Processing of partitions: on all cores, in bounded memory, and each partition only once.

items -> one folder each: job(item, folder) writes files and returns a JSON value -> done.json, rename -> results

A folder gets its number as its name when it is complete, so a command that was stopped or killed continues with the
remaining items. `job` is a pure function of its item: the process and the order of the items change nothing.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from multiprocessing import connection
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any, TypeVar

from babyllm.config.values import Count, Few
from babyllm.errors import UserError
from babyllm.files import fsync, read_sealed_json, write_sealed_json
from babyllm.progress import ProgressLine
from babyllm.runtime.machine import cores
from babyllm.runtime.signals import end_at_interrupts, interrupts_held_back

T = TypeVar("T")
_ECHO_S = 0.5
DONE = "done.json"


@dataclass(frozen=True)
class WorkConfig:
    """How an offline command uses the machine.

    Attributes:
        workers: number of processes; null takes one per core.
        partition_bytes: bytes of input that a process works on at a time, which bounds its memory.
    """

    workers: Few | None = None
    partition_bytes: Count = 64 << 20

    def alone(self) -> WorkConfig:
        """The same for work that this process does by itself."""
        return replace(self, workers=1)


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
        work: use of the machine; one worker works in this process.
        sizes: sizes of the items, for the progress line; None counts all items alike.
        title: title of the progress line, such as "clean".

    Raises:
        UserError: `job` raised it, a worker died, or the disk is full.
    """
    work = work or WorkConfig()
    directory.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    weights = [1] * len(items) if sizes is None else list(sizes)
    results: dict[int, Any] = {}
    for index in range(len(items)):
        found = _finished(directory / f"{index:05d}", digest)
        if found is not None:
            results[index] = found["result"]
    missing = [index for index in range(len(items)) if index not in results]
    done, total = sum(weights[i] for i in results), sum(weights)
    progress = ProgressLine(title, total, done, output=sys.stderr)
    jobs = ((i, (job, items[i], directory / f"{i:05d}", digest)) for i in missing)
    n_workers = min(work.workers or cores(), len(missing))
    for index, result in _in_turn(jobs) if n_workers <= 1 else _in_pool(jobs, n_workers):
        results[index] = result
        done += weights[index]
        progress.show(done)
    progress.end()
    return [results[index] for index in range(len(items))]


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


def _carry_out(work: Callable[[T, Path], Any], item: T, folder: Path, digest: str) -> Any:
    """The result of `work` for one item, in a folder that gets its final name when it is complete."""
    # The name has this process's id, since a worker whose parent was killed may still work on the same item.
    unfinished = folder.with_name(f".{folder.name}-{os.getpid()}")
    try:
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        result = work(item, unfinished)
        write_sealed_json(unfinished / DONE, {"key": digest, "result": result})
        shutil.rmtree(folder, ignore_errors=True)
        os.rename(unfinished, folder)
        fsync(folder.parent)
    except OSError as error:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise not_written(folder, error) from error
    return result


def _begin(has_begun: Event) -> None:
    """Report that a worker has started, and make it end silently at Ctrl-C or when its parent ends."""
    has_begun.set()
    end_at_interrupts()
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


Job = tuple[int, tuple[Any, ...]]


def _in_turn(jobs: Iterator[Job]) -> Iterator[tuple[int, Any]]:
    for index, arguments in jobs:
        yield index, _carry_out(*arguments)


def _in_pool(jobs: Iterator[Job], n_workers: int) -> Iterator[tuple[int, Any]]:
    # Spawned, because a forked process would inherit threads and locks of the libraries in use here.
    context = multiprocessing.get_context("spawn")
    has_begun = context.Event()
    pool = ProcessPoolExecutor(n_workers, context, _begin, (has_begun,))
    running: dict[Future[Any], int] = {}
    try:
        while True:
            # Few jobs are submitted ahead, so that a stop waits for few.
            while len(running) < 2 * n_workers and (job := next(jobs, None)):
                with interrupts_held_back():  # Ctrl-C would make a worker that is still importing print a traceback
                    running[pool.submit(_carry_out, *job[1])] = job[0]
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                yield running.pop(future), future.result()
    except BrokenProcessPool as error:
        time.sleep(_ECHO_S)  # after Ctrl-C the workers may end before this process gets the signal
        if not has_begun.is_set():
            raise UserError(
                "no worker process could start: workers import the calling script, which needs "
                "`if __name__ == '__main__':` around its own code; if it has that, there may be too little memory"
            ) from error
        raise UserError(
            "a worker process died, perhaps for lack of memory; try a smaller --work.partition_bytes or fewer "
            "--work.workers; the same command goes on with what is left"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)
