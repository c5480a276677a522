"""The thread that owns the model: requests reach it from the event loop, and deltas of their answers return.

    event loop:  submit, release  ---- inbox ---->  thread:  load, then repeat: inbox, Writer.advance
                 Ticket.deltas  <----- call_soon -----------  deltas

When the thread ends, every request ends too, so no client is left waiting.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from babyllm.errors import UserError
from babyllm.serve.api.problem import Problem
from babyllm.serve.api.requests import GenerationRequest
from babyllm.serve.metrics import Metrics
from babyllm.serve.served_model import ServedModel

if TYPE_CHECKING:
    from babyllm.model.transformer import Transformer
    from babyllm.serve.api.choice import ChoiceDelta
    from babyllm.serve.writer import Writer

logger = logging.getLogger(__name__)

CLOSING = "the server is shutting down"
DEAD = "the thread of the model has ended; the server must be started again"


class Loading(NamedTuple):
    """Settings by which the thread loads and runs the model.

    Attributes:
        load: function that returns the model, on its device, and its description.
        reading: function that returns the context in which the model runs.
        slots: number of answers that are decoded together.
        queue: number of further answers that may wait.
        threads: number of CPU threads.
    """

    load: Callable[[], tuple[Transformer, ServedModel]]
    reading: Callable[[], AbstractContextManager[object]]
    slots: int
    queue: int
    threads: int


class Ticket:
    """A submitted request, as the event loop sees it.

    Attributes:
        request: the prompts and settings of its answers.
        deltas: queue of the deltas of all its answers; an answer's last delta reports how it ended.
        unfinished: indices of the answers that are still being written.
    """

    def __init__(self, request: GenerationRequest) -> None:
        self.request = request
        self.deltas: asyncio.Queue[ChoiceDelta] = asyncio.Queue()
        self.unfinished = set(range(len(request.choices)))
        self.began = time.perf_counter()
        self.seen: dict[int, float] = {}  # time at which the last token of each answer arrived, in seconds


class EngineThread:
    """Runs the model for an event loop, which calls these methods.

    Attributes:
        served: description of the model; None until it is loaded.
        failure: error that ended the thread; None while it runs.
    """

    def __init__(self, loading: Loading, metrics: Metrics, on_change: Callable[[], None]) -> None:
        """Start loading the model; call it in the event loop.

        Args:
            loading: how the model is loaded and run.
            metrics: metrics that count every token.
            on_change: function called in the loop after the model is loaded and after the thread has ended.
        """
        self.served: ServedModel | None = None
        self.failure: BaseException | None = None
        self._loading, self._metrics, self._on_change = loading, metrics, on_change
        self._loop = asyncio.get_running_loop()
        self._tickets: set[Ticket] = set()
        self._n_open = 0
        self._inbox: queue.SimpleQueue[Callable[[Writer], None] | None] = queue.SimpleQueue()
        self._writer: Writer | None = None
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    @property
    def slots(self) -> int:
        """Number of answers that are written together."""
        return self._loading.slots

    @property
    def capacity(self) -> int:
        """Largest number of answers that are accepted, running and waiting."""
        return self._loading.slots + self._loading.queue

    @property
    def n_running(self) -> int:
        """Number of answers being written."""
        return self._writer.n_running if self._writer else 0

    @property
    def n_waiting(self) -> int:
        """Number of answers that wait for a slot."""
        return self._writer.n_waiting if self._writer else 0

    def require_ready(self) -> ServedModel:
        """The description of the model.

        Raises:
            Problem: the model is not loaded yet, or cannot be used any more.
        """
        if self.failure is not None:
            raise Problem(503, DEAD, code="engine_dead")
        if self.served is None:
            raise Problem(503, "the model is being loaded", code="loading")
        return self.served

    def require_capacity(self, n: int = 1) -> None:
        """Check that `n` more answers can be accepted now.

        Raises:
            Problem: too many answers are waiting.
        """
        if self._n_open + n > self.capacity:
            raise Problem(429, "too many requests are waiting; try again later", code="queue_full")

    def submit(self, request: GenerationRequest) -> Ticket:
        """Submit a request to the thread.

        Raises:
            Problem: too many answers are waiting, or the model cannot be used any more.
        """
        self.require_ready()
        self.require_capacity(len(request.choices))
        ticket = Ticket(request)
        self._tickets.add(ticket)
        self._n_open += len(ticket.unfinished)
        self._metrics.count_prompt(request.n_prompt_tokens)
        self._inbox.put(lambda writer: writer.begin(ticket, request))
        return ticket

    def release(self, ticket: Ticket) -> None:
        """Drop a request; answers that are still being written stop at once."""
        self._tickets.discard(ticket)
        if ticket.unfinished:
            self._n_open -= len(ticket.unfinished)
            ticket.unfinished.clear()
            self._inbox.put(lambda writer: writer.drop(ticket))

    def cut(self, problem: Problem) -> None:
        """End all requests with the error `problem`."""
        from babyllm.serve.api.choice import ChoiceDelta

        for ticket in list(self._tickets):
            for index in sorted(ticket.unfinished):
                ticket.deltas.put_nowait(ChoiceDelta(index, problem=problem))
            self.release(ticket)

    def cut_in(self, seconds: float, problem: Problem) -> None:
        """End all requests with the error `problem` after this many seconds; a signal handler may call it."""
        self._loop.call_soon_threadsafe(self._loop.call_later, seconds, self.cut, problem)

    def stop(self, patience_s: float) -> None:
        """End the thread, and wait up to `patience_s` seconds for its end."""
        self._inbox.put(None)
        self._thread.join(patience_s)

    # ---- called in the loop by the thread

    def _deliver(self, news: Sequence[tuple[Any, ChoiceDelta]], now: float) -> None:
        ticket: Ticket
        for ticket, delta in news:
            if delta.number not in ticket.unfinished:
                continue  # the request was released
            if delta.n_tokens:
                is_first = delta.number not in ticket.seen
                self._metrics.count_token(now - ticket.seen.get(delta.number, ticket.began), is_first)
                ticket.seen[delta.number] = now
            ticket.deltas.put_nowait(delta)
            if delta.is_last:
                ticket.unfinished.discard(delta.number)
                self._n_open -= 1

    def _set_ready(self, served: ServedModel) -> None:
        self.served = served
        self._on_change()

    def _set_ended(self, failure: BaseException | None) -> None:
        self.failure = failure or RuntimeError("stopped")
        self._writer = None
        self.cut(Problem(503, CLOSING if failure is None else DEAD))
        self._on_change()

    # ---- the thread

    def _run(self) -> None:
        failure: BaseException | None = None
        try:
            self._work()
        except BaseException as error:
            failure = error
            if not isinstance(error, UserError):
                logger.exception("the thread of the model ends")
        self._call_in_loop(self._set_ended, failure)

    def _work(self) -> None:
        import torch

        from babyllm.generation.engine import Engine
        from babyllm.serve.writer import Writer

        loading = self._loading
        torch.set_num_threads(loading.threads)  # OpenMP has a separate setting for each thread
        model, served = loading.load()
        with loading.reading():
            engine = partial(Engine, model, slots=loading.slots, context=served.context)
            self._writer = writer = Writer(engine, served.tokenizer, loading.slots)
            self._call_in_loop(self._set_ready, served)
            while True:
                for command in self._commands(writer.is_idle):
                    if command is None:
                        return
                    command(writer)
                if news := writer.advance():
                    self._call_in_loop(self._deliver, news, time.perf_counter())

    def _commands(self, is_idle: bool) -> Iterator[Callable[[Writer], None] | None]:
        """The commands that the loop has sent; waits for one if there is nothing else to do."""
        if is_idle:
            yield self._inbox.get()
        with suppress(queue.Empty):
            while True:
                yield self._inbox.get_nowait()

    def _call_in_loop(self, function: Callable[..., None], *arguments: object) -> None:
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(function, *arguments)
