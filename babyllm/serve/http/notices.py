"""The server's log of refused requests: one line a second at most, so that no client can fill the disk."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

logger = logging.getLogger(__name__)

INTERVAL_S = 1.0
MAX_CHARACTERS = 300


class Notices:
    """Logs at most one notice per second; the next one says how many were left out."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin with nothing left out.

        Args:
            clock: function that returns the time in seconds.
        """
        self._clock = clock
        self._next = -INTERVAL_S
        self._n_left_out = 0

    def log(self, line: str) -> None:
        """Log a line, which may quote a client, unless another one was logged within the last second."""
        now = self._clock()
        if now < self._next:
            self._n_left_out += 1
            return
        more = f" (and {self._n_left_out} notices before it)" if self._n_left_out else ""
        self._next, self._n_left_out = now + INTERVAL_S, 0
        safe = "".join(character if character.isprintable() else "?" for character in line[:MAX_CHARACTERS])
        logger.warning("%s %s%s", time.strftime("%H:%M:%S"), safe, more)
