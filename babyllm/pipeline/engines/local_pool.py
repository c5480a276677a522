"""The engine of one machine: a pool of processes, which end with the process that started them."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection
from multiprocessing.synchronize import Event
from typing import Any

from babyllm.errors import UserError
from babyllm.runtime.signals import end_at_interrupts, interrupts_held_back

_ECHO_S = 0.5


class LocalPool:
    """A pool of worker processes.

    Args:
        n_workers: number of processes.
    """

    def __init__(self, n_workers: int) -> None:
        # Spawned, because a forked process would inherit threads and locks of the libraries in use here.
        context = multiprocessing.get_context("spawn")
        self._n_workers, self._has_begun = n_workers, context.Event()
        self._pool = ProcessPoolExecutor(n_workers, context, _begin, (self._has_begun,))

    def submit(self, function: Callable[..., Any], /, *arguments: Any) -> Future[Any]:
        """Run a function; see `Engine.submit`."""
        try:
            with interrupts_held_back():  # Ctrl-C would make a worker that is still importing print a traceback
                return self._pool.submit(function, *arguments)
        except BrokenProcessPool as error:
            failed: Future[Any] = Future()
            failed.set_exception(error)
            return failed

    def ahead(self) -> int:
        """Few, so that a stop waits for few."""
        return 2 * self._n_workers

    def status(self) -> str:
        """Nothing, since it is this machine alone."""
        return ""

    def why_broken(self) -> UserError:
        """The error of a command whose workers have died."""
        time.sleep(_ECHO_S)  # after Ctrl-C the workers may end before this process gets the signal
        if not self._has_begun.is_set():
            return UserError(
                "no worker process could start: workers import the calling script, which needs "
                "`if __name__ == '__main__':` around its own code; if it has that, there may be too little memory"
            )
        return worker_died("a worker process died")

    def close(self, is_stopped: bool = False) -> None:
        """Drop what has not begun, and wait for what has."""
        del is_stopped
        self._pool.shutdown(cancel_futures=True)


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
