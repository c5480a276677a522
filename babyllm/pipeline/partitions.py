"""Work on the partitions of a corpus: on all cores, in bounded memory, and never twice.

items -> one folder each: work(item, folder) writes files and returns a JSON value -> done.json, rename -> results

A folder appears under its number when it is complete, so a stage that is stopped or killed goes on with what is left.
`work` is a pure function of its item; where and in which order items are worked on changes nothing.
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
from dataclasses import dataclass
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
    """How a stage uses the machine.

    Attributes:
        workers: processes; null takes one per core.
        partition_bytes: bytes of input that one process works on at a time, which bounds its memory.
    """

    workers: Few | None = None
    partition_bytes: Count = 64 << 20


def run_partitions(
    items: Sequence[T],
    work: Callable[[T, Path], Any],
    directory: Path,
    *,
    key: Any,
    workers: int | None = None,
    sizes: Sequence[int] | None = None,
    title: str = "",
) -> list[Any]:
    """The result of `work(item, folder)` for every item, in their order.

    Args:
        items: what to work on; pickled to the worker processes.
        work: a function of a module (or `functools.partial` of one); writes what it likes to `folder`, which is empty.
        directory: gets a folder 00000, 00001, ... per item, with its files and its result in `done.json`.
        key: JSON value that decides the results beside the items: configuration and inputs. Folders made with another
            key are redone.
        workers: processes; None takes one per core, 1 works in this process.
        sizes: sizes of the items, for the progress; alike if not given.
        title: title of the progress, such as "clean".

    Raises:
        UserError: an item's work failed with one, a worker died, or the disk is full.
    """
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
    jobs = ((i, (work, items[i], directory / f"{i:05d}", digest)) for i in missing)
    n_workers = min(workers or cores(), len(missing))
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
    """The error of a stage that cannot write at a place, or at the file that the error names."""
    return UserError(
        f"{error.filename or place}: cannot be written ({error.strerror or error}); free some space or mend it and "
        "start the same command again, it goes on with what is left"
    )


def _carry_out(work: Callable[[T, Path], Any], item: T, folder: Path, digest: str) -> Any:
    """Work on one item in a folder that gets its name when it is complete."""
    # The name is this process's own: a worker whose parent was killed may still be at the same item.
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
    """Report that a worker works, and end it silently at Ctrl-C, which reaches it too, and when its parent is gone."""
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
    # Fresh processes: a forked one would inherit threads and locks of libraries in use here.
    context = multiprocessing.get_context("spawn")
    has_begun = context.Event()
    pool = ProcessPoolExecutor(n_workers, context, _begin, (has_begun,))
    running: dict[Future[Any], int] = {}
    try:
        while True:
            # Few are handed in ahead of time, so that a stop leaves little to wait for.
            while len(running) < 2 * n_workers and (job := next(jobs, None)):
                with interrupts_held_back():  # a worker that is still importing would show a traceback
                    running[pool.submit(_carry_out, *job[1])] = job[0]
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                yield running.pop(future), future.result()
    except BrokenProcessPool as error:
        time.sleep(_ECHO_S)  # Ctrl-C comes to the workers and to this process, to whom first is chance
        if not has_begun.is_set():
            raise UserError(
                "no worker process could begin: a script that calls this needs `if __name__ == '__main__':` around "
                "what it does, for each worker carries out the rest of it; where it has that, memory is short"
            ) from error
        raise UserError(
            "a worker process died, for want of memory perhaps; try a smaller --work.partition_bytes or fewer "
            "--work.workers; the same command goes on with what is left"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)
