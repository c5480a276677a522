"""The engine of commands beside each other: one leads, the others work for it, through files on a disk they share.

task.ID.ATTEMPT -> a command takes it: taken.ID.ATTEMPT.NAME -> done.ID, the result, which the command that leads reads

A rename decides who takes a task. If a command dies, its tasks are taken again by others; if the one that leads dies,
another takes its place. So it does not matter how many commands there are, nor when they start and end.
"""

from __future__ import annotations

import os
import pickle
import secrets
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from babyllm.errors import UserError, in_one_line
from babyllm.pipeline.engines.local_pool import ATTEMPTS, LocalPool, worker_died
from babyllm.pipeline.engines.packed_jobs import packed, run_packed
from babyllm.pipeline.engines.presence import (
    Watch,
    beating,
    give_up_lead,
    leader,
    require_own,
    take_lead,
    write_at_once,
)

POLL_S = 0.1
_LOOK_EVERY = 10  # polls, for commands that have died


class Crew:
    """Takes tasks and runs them in processes of this machine.

    Args:
        folder: folder of the queue.
        name: unique name of this process.
        n_workers: number of processes.

    Raises:
        UserError: another account may write in the folder.
    """

    def __init__(self, folder: Path, name: str, n_workers: int) -> None:
        require_own(folder)
        self._folder, self._name, self._n_workers = folder, name, n_workers
        self._pool = LocalPool(n_workers)
        self._running: dict[Future[bytes], Path] = {}
        self.n_done = 0

    def step(self) -> None:
        """Hand in what is finished, and take as many tasks as there are idle processes."""
        for future in [future for future in self._running if future.done()]:
            self._hand_in(future)
        if len(self._running) == self._n_workers:
            return
        for task in sorted(self._folder.glob("task.*")):
            if len(self._running) == self._n_workers:
                return
            taken = task.with_name(f"taken.{task.name.partition('.')[2]}.{self._name}")
            try:
                os.rename(task, taken)
                content = taken.read_bytes()
            except FileNotFoundError:  # another command was faster
                continue
            self._running[self._pool.submit(_perform, content)] = taken

    def close(self) -> None:
        """Finish what is running."""
        while self._running:
            self._hand_in(next(iter(self._running)))
        self._pool.close()

    def _hand_in(self, future: Future[bytes]) -> None:
        taken = self._running.pop(future)
        try:
            result = future.result()
        except BrokenProcessPool:
            put_back(taken)
            return
        if taken.parent.is_dir():  # else the command that led has ended
            write_at_once(taken.with_name(f"done.{taken.name.split('.')[1]}"), result)
            taken.unlink(missing_ok=True)
            self.n_done += 1


def put_back(taken: Path) -> None:
    """Let a task be taken again whose worker or command has died; after some attempts it has failed."""
    _, identity, attempt, *_ = taken.name.split(".")
    try:
        if int(attempt) < ATTEMPTS:
            os.rename(taken, taken.with_name(f"task.{identity}.{int(attempt) + 1}"))
            return
        error = worker_died(f"{ATTEMPTS} workers died, one after the other, at the same work")
        write_at_once(taken.with_name(f"done.{identity}"), pickle.dumps((False, error)))
        taken.unlink(missing_ok=True)
    except FileNotFoundError:  # another command did so
        pass


def _perform(task: bytes) -> bytes:
    """Run a task in a worker; returns whether it succeeded, and its result or its exception, pickled."""
    try:
        return pickle.dumps((True, run_packed(task)))
    except UserError as error:
        return pickle.dumps((False, error))
    except Exception as error:
        traceback.print_exc()
        return pickle.dumps((False, RuntimeError(f"{type(error).__name__}: {in_one_line(error)}")))


class SharedQueue:
    """Jobs of the command that leads; it works on them too.

    Args:
        folder: folder of the queue, in which this process leads.
        n_workers: number of processes of this machine.
    """

    def __init__(self, folder: Path, n_workers: int) -> None:
        self._folder, self._n_workers, self._watch = folder, n_workers, Watch(folder)
        self._name = leader(folder) or ""
        self._crew = Crew(folder, self._name, n_workers)
        self._futures: dict[str, Future[Any]] = {}
        self._prefix, self._n_submitted = secrets.token_hex(3), 0
        self._workers: dict[str, int] = {}
        self._error: BaseException | None = None
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def submit(self, function: Callable[..., Any], /, *arguments: Any) -> Future[Any]:
        """Run a function; see `Engine.submit`. It is repeated if its worker or command dies."""
        if self._error:
            raise self._error
        identity = f"{self._n_submitted:08d}-{self._prefix}"
        self._n_submitted += 1
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()
        self._futures[identity] = future
        write_at_once(self._folder / f"task.{identity}.1", packed(function, arguments))
        return future

    def ahead(self) -> int:
        """Twice the workers of all commands."""
        return 2 * max(self._n_workers, sum(self._workers.values()))

    def status(self) -> str:
        """The workers of all commands, if there are several commands."""
        n = len(self._workers)
        return f"{sum(self._workers.values())} workers of {n} commands" if n > 1 else ""

    def close(self, is_stopped: bool = False) -> None:
        """Drop what nobody has taken, and wait for what this process runs."""
        del is_stopped
        self._is_over.set()
        self._thread.join()
        for task in self._folder.glob("task.*"):
            task.unlink(missing_ok=True)
        self._crew.close()

    def _follow(self) -> None:
        try:
            n_polls = 0
            while not self._is_over.wait(POLL_S):
                self._crew.step()
                self._collect()
                if n_polls % _LOOK_EVERY == 0:
                    self._look()
                n_polls += 1
        except BaseException as error:  # whoever waits for a job must hear of it
            self._error = error
            while self._futures:
                self._futures.popitem()[1].set_exception(error)

    def _collect(self) -> None:
        for path in self._folder.glob("done.*"):
            is_success, result = pickle.loads(path.read_bytes())
            path.unlink()
            future = self._futures.pop(path.name.partition(".")[2], None)
            if future is None:  # of a command that led before
                continue
            if is_success:
                future.set_result(result)
            else:
                future.set_exception(result)

    def _look(self) -> None:
        self._workers = self._watch.workers()
        for taken in self._folder.glob("taken.*"):
            name = taken.name.split(".")[3]
            if name != self._name and self._watch.is_silent(name):
                put_back(taken)


@contextmanager
def leading(folder: Path, name: str, n_workers: int) -> Iterator[bool]:
    """Lead the commands that make the same output while the body runs; false if another one leads.

    Args:
        folder: folder of the queue.
        name: unique name of this process.
        n_workers: number of processes of this machine.
    """
    if not take_lead(folder, name):
        yield False
        return
    try:
        for kind in ("task", "taken", "done"):  # of a command that led before
            for path in folder.glob(f"{kind}.*"):
                path.unlink(missing_ok=True)
        with beating(folder, name, n_workers):
            yield True
    finally:
        give_up_lead(folder, name)


def work_for(lead: str, folder: Path, name: str, n_workers: int) -> int:
    """Work for the command `lead` until it has ended or died; returns the number of tasks done."""
    watch = Watch(folder)
    with beating(folder, name, n_workers):
        crew = Crew(folder, name, n_workers)
        try:
            while leader(folder) == lead and not watch.is_silent(lead):
                crew.step()
                time.sleep(POLL_S)
        finally:
            crew.close()
    return crew.n_done
