"""Submitted requests as the event loop sees them: what has come of them, and how to drop them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from babyllm.serve.api.generation.choice import ChoiceDelta
from babyllm.serve.api.problem import Problem

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Ticket:
    """A submitted request for answers.

    Attributes:
        deltas: queue of the deltas of all its answers; an answer's last delta reports how it ended.
        unfinished: indices of the answers that are still being written.
        drop: function that stops the work on it, to be called by the thread of the models.
        began: time of its submission, in seconds of `time.perf_counter`.
        seen: time at which the last token of each answer arrived, in seconds.
        n_prompt: number of tokens of each answer's prompt.
    """

    def __init__(self, n_prompt: Sequence[int]) -> None:
        self.deltas: asyncio.Queue[ChoiceDelta] = asyncio.Queue()
        self.unfinished = set(range(len(n_prompt)))
        self.n_prompt = n_prompt
        self.drop: Callable[[], None] = lambda: None
        self.began = time.perf_counter()
        self.seen: dict[int, float] = {}

    def fail(self, problem: Problem) -> None:
        """End all answers with an error."""
        for index in sorted(self.unfinished):
            self.deltas.put_nowait(ChoiceDelta(index, problem=problem))


class EmbeddingTicket:
    """A submitted request for embeddings.

    Attributes:
        vectors: its embeddings (n, D) or the error that ended it.
        unfinished: {0} while it is being worked on.
        drop: function that stops the work on it, to be called by the thread of the models.
    """

    def __init__(self) -> None:
        self.vectors: asyncio.Queue[NDArray[np.float32] | Problem] = asyncio.Queue()
        self.unfinished = {0}
        self.drop: Callable[[], None] = lambda: None

    def fail(self, problem: Problem) -> None:
        """End the request with an error."""
        self.vectors.put_nowait(problem)
