"""The engine of one machine: processes that end with the process that started them.

Each worker is a pool of its own, so the death of one says which work it was at and disturbs no other.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection
from multiprocessing.synchronize import Event
from typing import Any

from babyllm.errors import UserError
from babyllm.runtime.signals import end_at_interrupts, interrupts_held_back

ATTEMPTS = 3  # at work whose worker died
_ECHO_S = 0.5


class LocalPool:
    """Worker processes, each with one job at a time.

    Args:
        n_workers: number of processes.
    """

    def __init__(self, n_workers: int) -> None:
        # Spawned, because a forked process would inherit threads and locks of the libraries in use here.
        self._context = multiprocessing.get_context("spawn")
        self._has_begun = self._context.Event()
        self._idle = [self._worker() for _ in range(n_workers)]
        self._busy: dict[Future[Any], ProcessPoolExecutor] = {}
        self._n_workers = n_workers

    def submit(self, function: Callable[..., Any], /, *arguments: Any) -> Future[Any]:
        """Run a function; see `Engine.submit`. The future has a `BrokenProcessPool` if its worker died."""
        self._release()
        worker = self._idle.pop()
        try:
            with interrupts_held_back():  # Ctrl-C would make a worker that is still importing print a traceback
                future = worker.submit(function, *arguments)
        except BrokenProcessPool as error:  # the worker died between two jobs
            future = Future()
            future.set_exception(error)
        self._busy[future] = worker
        return future

    def ahead(self) -> int:
        """As many as there are workers."""
        return self._n_workers

    def status(self) -> str:
        """Nothing, since it is this machine alone."""
        return ""

    def check_started(self) -> None:
        """Check, after a worker has died, that workers can begin to work at all.

        Raises:
            UserError: none has begun.
        """
        time.sleep(_ECHO_S)  # after Ctrl-C the workers may end before this process gets the signal
        if not self._has_begun.is_set():
            raise UserError(
                "no worker process could start: workers import the calling script, which needs "
                "`if __name__ == '__main__':` around its own code; if it has that, there may be too little memory"
            )

    def close(self, is_stopped: bool = False) -> None:
        """Wait for what has begun."""
        del is_stopped
        workers = [*self._idle, *self._busy.values()]
        with ThreadPoolExecutor(len(workers)) as threads:  # the end of a process takes a moment
            list(threads.map(lambda worker: worker.shutdown(cancel_futures=True), workers))

    def _worker(self) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(1, self._context, _begin, (self._has_begun,))

    def _release(self) -> None:
        """Make the workers whose jobs are finished idle; another takes the place of one that died."""
        for future in [future for future in self._busy if future.done()]:
            worker = self._busy.pop(future)
            if isinstance(future.exception(), BrokenProcessPool):
                worker.shutdown()
                worker = self._worker()
            self._idle.append(worker)


def worker_died(what: str) -> UserError:
    """The error of a command whose worker died; `what` says which."""
    return UserError(
        f"{what}, perhaps for lack of memory; try a smaller --work.partition_bytes or fewer --work.workers; "
        "the same command goes on with what is left"
    )


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
