"""The thread that owns the models: requests reach it from the event loop, and deltas of their answers return.

    event loop:  submit, release  ---- inbox ---->  thread:  load, then repeat: inbox, Writers.advance
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
from babyllm.serve.api.generation.generation_request import GenerationRequest
from babyllm.serve.api.problem import Problem
from babyllm.serve.catalog import Catalog
from babyllm.serve.metrics import Metrics
from babyllm.serve.served_model import ServedModel
from babyllm.serve.tickets import EmbeddingTicket, Ticket

if TYPE_CHECKING:
    from babyllm.model.transformer import Transformer
    from babyllm.serve.api.embeddings.embedding_request import EmbeddingRequest
    from babyllm.serve.api.generation.choice import ChoiceDelta
    from babyllm.serve.embedder import Done, Embedder
    from babyllm.serve.writers import Writers

logger = logging.getLogger(__name__)

CLOSING = "the server is shutting down"
DEAD = "the thread of the model has ended; the server must be started again"


class Loading(NamedTuple):
    """Settings by which the thread loads and runs the models.

    Attributes:
        load: function that returns the models, on their device, and their descriptions; the first one is the base.
        reading: function that returns the context in which the models run.
        slots: number of answers of a model that are decoded together.
        queue: number of further answers that may wait.
        threads: number of CPU threads.
        max_adapters: largest number of adapters that have an engine in memory at a time.
        cached_tokens: largest number of tokens of prompts and answers whose keys and values each engine keeps; None
            for as many as its slots hold, in at most 1 GiB.
    """

    load: Callable[[], Sequence[tuple[Transformer, ServedModel]]]
    reading: Callable[[], AbstractContextManager[object]]
    slots: int
    queue: int
    threads: int
    max_adapters: int = 1
    cached_tokens: int | None = None


class EngineThread:
    """Runs the models for an event loop, which calls these methods.

    Attributes:
        catalog: descriptions of the models; None until they are loaded.
        failure: error that ended the thread; None while it runs.
    """

    def __init__(self, loading: Loading, metrics: Metrics, on_change: Callable[[], None]) -> None:
        """Start loading the models; call it in the event loop.

        Args:
            loading: how the models are loaded and run.
            metrics: metrics that count every token.
            on_change: function called in the loop after the models are loaded and after the thread has ended.
        """
        self.catalog: Catalog | None = None
        self.failure: BaseException | None = None
        self._loading, self._metrics, self._on_change = loading, metrics, on_change
        self._loop = asyncio.get_running_loop()
        self._tickets: set[Ticket | EmbeddingTicket] = set()
        self._n_open = 0
        self._inbox: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._writers: Writers | None = None
        self._embedders: dict[str, Embedder] = {}
        self._next_embedding = 0.0  # time before which only answers are worked on, in seconds
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
        return self._writers.n_running if self._writers else 0

    @property
    def n_waiting(self) -> int:
        """Number of answers that wait for a slot."""
        return self._writers.n_waiting if self._writers else 0

    def require_ready(self) -> Catalog:
        """The descriptions of the models.

        Raises:
            Problem: the models are not loaded yet, or cannot be used any more.
        """
        if self.failure is not None:
            raise Problem(503, DEAD, code="engine_dead")
        if self.catalog is None:
            raise Problem(503, "the model is being loaded", code="loading")
        return self.catalog

    def require_capacity(self, n: int = 1) -> None:
        """Check that `n` more answers can be accepted now.

        Raises:
            Problem: too many answers are waiting.
        """
        if self._n_open + n > self.capacity:
            raise Problem(429, "too many requests are waiting; try again later", code="queue_full")

    def submit(self, request: GenerationRequest, model: ServedModel) -> Ticket:
        """Submit a request for answers of a model to the thread.

        Raises:
            Problem: too many answers are waiting, or the model cannot be used any more.
        """
        self.require_ready()
        self.require_capacity(len(request.choices))
        ticket = Ticket([len(choice.prompt) for choice in request.choices])
        ticket.drop = lambda: self._open_writers().drop(model.name, ticket)
        self._add(ticket, request.n_prompt_tokens)
        self._inbox.put(lambda: self._open_writers().begin(model.name, ticket, request))
        return ticket

    def embed(self, request: EmbeddingRequest, model: ServedModel) -> EmbeddingTicket:
        """Submit a request for embeddings by a model, which occupies as much capacity as one answer.

        Raises:
            Problem: as for `submit`.
        """
        self.require_ready()
        self.require_capacity()
        ticket = EmbeddingTicket()
        ticket.drop = lambda: self._embedders[model.name].drop(ticket)
        self._add(ticket, sum(len(prompt.ids) for prompt in request.prompts))
        self._inbox.put(lambda: self._embedders[model.name].begin(ticket, request))
        return ticket

    def _add(self, ticket: Ticket | EmbeddingTicket, n_prompt_tokens: int) -> None:
        self._tickets.add(ticket)
        self._n_open += len(ticket.unfinished)
        self._metrics.count_prompt(n_prompt_tokens)

    def release(self, ticket: Ticket | EmbeddingTicket) -> None:
        """Drop a request; answers that are still being written stop at once."""
        self._tickets.discard(ticket)
        if ticket.unfinished:
            self._n_open -= len(ticket.unfinished)
            ticket.unfinished.clear()
            self._inbox.put(ticket.drop)

    def cut(self, problem: Problem) -> None:
        """End all requests with the error `problem`."""
        for ticket in list(self._tickets):
            ticket.fail(problem)
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
                if is_first:
                    self._metrics.count_cached(ticket.n_prompt[delta.number], delta.n_cached or 0)
                ticket.seen[delta.number] = now
            ticket.deltas.put_nowait(delta)
            if delta.is_last:
                ticket.unfinished.discard(delta.number)
                self._n_open -= 1

    def _deliver_vectors(self, done: Sequence[Done]) -> None:
        for key, vectors in done:
            assert isinstance(key, EmbeddingTicket)
            if key.unfinished:
                key.vectors.put_nowait(vectors)
                key.unfinished.clear()
                self._n_open -= 1

    def _set_ready(self, catalog: Catalog) -> None:
        self.catalog = catalog
        self._on_change()

    def _set_ended(self, failure: BaseException | None) -> None:
        self.failure = failure or RuntimeError("stopped")
        self._writers, self._embedders = None, {}
        self.cut(Problem(503, CLOSING if failure is None else DEAD))
        self._on_change()

    # ---- the thread

    def _open_writers(self) -> Writers:
        assert self._writers is not None
        return self._writers

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
        from babyllm.serve.embedder import Embedder
        from babyllm.serve.writer import Writer
        from babyllm.serve.writers import Writers

        loading = self._loading
        torch.set_num_threads(loading.threads)  # OpenMP has a separate setting for each thread
        models = loading.load()
        with loading.reading():
            make = {}
            for model, served in models:
                engine = partial(
                    Engine,
                    model,
                    slots=loading.slots,
                    context=served.context,
                    cached_tokens=loading.cached_tokens,
                    tokenizer=served.tokenizer,
                )
                make[served.name] = partial(Writer, engine, served.tokenizer, loading.slots)
            writers = Writers(make, loading.max_adapters)
            embedders = {served.name: Embedder(model) for model, served in models}
            self._writers, self._embedders = writers, embedders
            self._call_in_loop(self._set_ready, Catalog(tuple(served for _, served in models)))
            while True:
                workers: list[Writers | Embedder] = [writers, *embedders.values()]
                for command in self._commands(all(worker.is_idle for worker in workers)):
                    if command is None:
                        return
                    command()
                if news := writers.advance():
                    self._call_in_loop(self._deliver, news, time.perf_counter())
                self._embed(has_answers=not writers.is_idle)

    def _embed(self, has_answers: bool) -> None:
        """Read a batch of each request for embeddings; answers that are being written get as much time before it."""
        began = time.perf_counter()
        if has_answers and began < self._next_embedding:
            return
        for embedder in self._embedders.values():
            if done := embedder.advance():
                self._call_in_loop(self._deliver_vectors, done)
        now = time.perf_counter()
        self._next_embedding = now + (now - began)

    def _commands(self, is_idle: bool) -> Iterator[Callable[[], None] | None]:
        """The commands that the loop has sent; waits for one if there is nothing else to do."""
        if is_idle:
            yield self._inbox.get()
        with suppress(queue.Empty):
            while True:
                yield self._inbox.get_nowait()

    def _call_in_loop(self, function: Callable[..., None], *arguments: object) -> None:
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(function, *arguments)
