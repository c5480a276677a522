"""Answers to many requests, written by one engine; an exception ends only the answer that raised it.

    begin -> [scores of the prompt] -> Engine.submit;  advance: Engine.step -> ChoiceDecoder -> ChoiceDelta;  drop

A writer is used by one thread only. An engine that fails is replaced: the answers it was writing are lost, and waiting
requests are submitted again.
"""

from __future__ import annotations

import logging
import traceback
from collections import deque
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field

from babyllm.errors import UserError
from babyllm.generation.engine import Engine
from babyllm.generation.sampling import NO_NUMBERS, Token
from babyllm.serve.api.generation.choice import ChoiceDecoder, ChoiceDelta
from babyllm.serve.api.generation.generation_request import ChoiceRequest, GenerationRequest
from babyllm.serve.api.problem import Problem
from babyllm.tokenizer import Tokenizer

logger = logging.getLogger(__name__)

BROKEN = "the model failed at this request; the server's log says why"
Key = Hashable


@dataclass
class _Job:
    """An answer, the key of its request, and the scores of its prompt so far."""

    key: Key
    decoder: ChoiceDecoder
    parts: Iterator[list[Token]] | None = None
    scores: list[Token] = field(default_factory=list)


class Writer:
    """Writes the answers to all requests together."""

    def __init__(self, make_engine: Callable[[], Engine], tokenizer: Tokenizer, slots: int) -> None:
        """Make an engine.

        Args:
            make_engine: function that returns a new engine; called again after a failure.
            tokenizer: tokenizer of the model.
            slots: number of answers that the engine decodes together.
        """
        self._make_engine, self._tokenizer, self._slots = make_engine, tokenizer, slots
        self._engine = make_engine()
        self._jobs: dict[int, _Job] = {}  # by the engine's request number, the oldest first
        self._scoring: deque[_Job] = deque()
        self._news: list[tuple[Key, ChoiceDelta]] = []

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to do."""
        return self._engine.is_idle and not self._scoring and not self._news

    @property
    def n_running(self) -> int:
        """Number of answers being written."""
        return self._engine.n_running

    @property
    def n_waiting(self) -> int:
        """Number of answers that wait for a slot or for the scores of their prompts."""
        return self._engine.n_waiting + len(self._scoring)

    def begin(self, key: Key, request: GenerationRequest) -> None:
        """Start writing the answers to a request."""
        for number, choice in enumerate(request.choices):
            try:
                job = _Job(key, ChoiceDecoder(number, choice, self._tokenizer))
                if choice.echo is not None and choice.sampling.logprobs is not None:
                    self._begin_scoring(job)
                    self._scoring.append(job)
                    continue
                if choice.echo is not None:
                    self._news.append((key, job.decoder.opening(())))
                self._submit(job)
            except Exception as error:
                self._news.append((key, _failed(number, error)))

    def drop(self, key: Key) -> None:
        """Stop writing the answers to a request."""
        self._scoring = deque(job for job in self._scoring if job.key != key)
        for number in [number for number, job in self._jobs.items() if job.key == key]:
            self._forget(number)

    def release(self) -> None:
        """Free the memory; the writer cannot be used any more."""
        self._engine.release()

    def advance(self) -> list[tuple[Key, ChoiceDelta]]:
        """The new deltas after one step for all answers, each with the key of its request."""
        self._score()
        try:
            events = self._engine.step()
        except Exception as error:
            self._replace_engine(error)
            events = []
        for event in events:
            job = self._jobs[event.number]
            try:
                if event.finish == "error":
                    raise _problem(event.error)
                delta = job.decoder.take(event)
            except Exception as error:
                delta = _failed(job.decoder.number, error)
            if delta.is_last:
                self._forget(event.number)
            self._news.append((job.key, delta))
        news, self._news = self._news, []
        return news

    def _forget(self, number: int) -> None:
        del self._jobs[number]
        self._engine.cancel(number)

    def _submit(self, job: _Job) -> None:
        choice: ChoiceRequest = job.decoder.request
        if choice.sampling.max_new_tokens:
            self._jobs[self._engine.submit(choice.prompt, choice.sampling, choice.end_ids)] = job
        else:
            self._news.append((job.key, ChoiceDelta(job.decoder.number, finish="length")))

    def _begin_scoring(self, job: _Job) -> None:
        choice = job.decoder.request
        job.parts, job.scores = self._engine.scores(choice.prompt, choice.sampling.logprobs or 0), []

    def _score(self) -> None:
        """Score the next chunk of the oldest prompt that waits for its scores."""
        if not self._scoring:
            return
        job = self._scoring[0]
        assert job.parts is not None
        try:
            part = next(job.parts, None)
            if part is not None:
                job.scores += part
                return
            self._scoring.popleft()
            self._news.append((job.key, job.decoder.opening(job.scores)))
            self._submit(job)
        except Exception as error:
            self._scoring = deque(other for other in self._scoring if other is not job)
            self._news.append((job.key, _failed(job.decoder.number, error)))

    def _replace_engine(self, error: Exception) -> None:
        """Fail the answers being written, and submit the waiting ones to a new engine in the same order."""
        jobs = list(self._jobs.values())
        # Slots are assigned in order, so the running answers are among the oldest.
        lost = jobs[: self._slots]
        self._jobs = {}
        for job in lost:
            self._news.append((job.key, _failed(job.decoder.number, error)))
        # The next engine needs its memory, but the frames of the error's traceback still refer to it.
        self._engine.release()
        traceback.clear_frames(error.__traceback__)
        for job in self._scoring:
            job.parts = None
        self._engine = self._make_engine()
        for job in self._scoring:
            self._begin_scoring(job)
        for job in jobs[self._slots :]:
            self._submit(job)


def _problem(error: str) -> Exception:
    """The exception for an answer that cannot go on; only a constraint is the client's."""
    return UserError(error) if error == NO_NUMBERS else Problem(400, error, code="constraint_failed")


def _failed(number: int, error: Exception) -> ChoiceDelta:
    """The delta that reports an exception to the client; the traceback goes to the log."""
    if isinstance(error, Problem):
        return ChoiceDelta(number, problem=error)
    logger.error("answer %d of a request failed", number, exc_info=error)
    return ChoiceDelta(number, problem=Problem(500, BROKEN))
