"""The writers of all models: one is always there for the base, and a few for the adapters that are in use.

    begin -> waiting -> the adapter's writer, made when it is needed -> advance: a step of each writer that is not idle

A writer's engine takes memory of its own for the adapted matrices and for keys and values. So at most a given number
of adapters have one; the one that has been unused for longest makes room for another. Requests for adapters are begun
in order, so none waits forever while others are in use; requests for the base wait for none of them.
"""

from __future__ import annotations

import logging
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping

from babyllm.serve.api.generation.choice import ChoiceDelta
from babyllm.serve.api.generation.generation_request import GenerationRequest
from babyllm.serve.api.problem import Problem
from babyllm.serve.writer import BROKEN, Key, Writer

logger = logging.getLogger(__name__)


class Writers:
    """Writers by the name of their model."""

    def __init__(self, make: Mapping[str, Callable[[], Writer]], max_adapters: int) -> None:
        """Make the writer of the base.

        Args:
            make: functions that make a writer, by the name of its model; the first is the base.
            max_adapters: largest number of adapters that have a writer at a time, at least one.
        """
        self._make, self._most = make, max_adapters
        self._base_name = next(iter(make))
        self._base = make[self._base_name]()
        self._open: OrderedDict[str, Writer] = OrderedDict()  # of adapters, the one used last at the end
        self._waiting: deque[tuple[str, Key, GenerationRequest]] = deque()
        self._failed: list[tuple[Key, ChoiceDelta]] = []

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to do."""
        return not self._waiting and not self._failed and all(writer.is_idle for writer in self._all())

    @property
    def n_running(self) -> int:
        """Number of answers being written."""
        return sum(writer.n_running for writer in self._all())

    @property
    def n_waiting(self) -> int:
        """Number of answers that wait for a slot, for the scores of their prompts or for their model."""
        return sum(writer.n_waiting for writer in self._all()) + sum(len(r.choices) for _, _, r in [*self._waiting])

    def begin(self, name: str, key: Key, request: GenerationRequest) -> None:
        """Start writing the answers of a model to a request."""
        if name == self._base_name:
            self._base.begin(key, request)
        else:
            self._waiting.append((name, key, request))

    def drop(self, name: str, key: Key) -> None:
        """Stop writing the answers to a request."""
        self._waiting = deque(entry for entry in self._waiting if entry[1] != key)
        writer = self._base if name == self._base_name else self._open.get(name)
        if writer is not None:
            writer.drop(key)

    def advance(self) -> list[tuple[Key, ChoiceDelta]]:
        """The new deltas after one step of each writer, each with the key of its request."""
        self._begin_waiting()
        news, self._failed = self._failed, []
        for writer in self._all():
            if not writer.is_idle:
                news += writer.advance()
        return news

    def _all(self) -> list[Writer]:
        return [self._base, *self._open.values()]

    def _begin_waiting(self) -> None:
        while self._waiting:
            name, key, request = self._waiting[0]
            try:
                writer = self._writer(name)
            except Exception:
                logger.exception("the adapter %s cannot be used", name)
                self._failed += [
                    (key, ChoiceDelta(number, problem=Problem(500, BROKEN))) for number in range(len(request.choices))
                ]
            else:
                if writer is None:
                    return
                writer.begin(key, request)
            self._waiting.popleft()

    def _writer(self, name: str) -> Writer | None:
        """The writer of an adapter; None while there is no room for it."""
        if name not in self._open:
            if len(self._open) >= self._most:
                unused = next((other for other, writer in self._open.items() if writer.is_idle), None)
                if unused is None:
                    return None
                self._open.pop(unused).release()
            self._open[name] = self._make[name]()
        self._open.move_to_end(name)
        return self._open[name]
