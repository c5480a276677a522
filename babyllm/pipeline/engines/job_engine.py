"""The interface of engines: `submit` returns a future, as in PEP 3148. Data passes between jobs in files alone."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Protocol


class Engine(Protocol):
    """Runs functions of modules in other processes, on this machine or others."""

    def submit(self, function: Callable[..., Any], /, *arguments: Any) -> Future[Any]:
        """Run a function; the future has its result, or the exception that it raised."""

    def ahead(self) -> int:
        """The number of jobs that should be submitted and not finished at a time."""

    def status(self) -> str:
        """What the engine uses, for the progress line; empty for this machine alone."""

    def close(self, is_stopped: bool) -> None:
        """Release what the engine holds.

        Args:
            is_stopped: whether the command stops before its jobs are finished. Jobs that have not begun are dropped.
        """
