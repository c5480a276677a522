"""Continuous batching: requests join, decode together one token a step, and leave, each as if it were alone.

submit -> waiting -> joining: prompt read in chunks -> running: one token a step -> left
rows of the decoder's cache:   0 .. n_running-1 running, the next one joining

Nothing here knows text or threads: one owner calls `step` again and again.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from babyllm.errors import UserError
from babyllm.generation.decoder import READ, Decoder, require_readable
from babyllm.generation.sampling import NO_NUMBERS, Sampler, Sampling, Token
from babyllm.generation.scores import prompt_scores
from babyllm.model.transformer import Transformer

Finish = Literal["stop", "length", "error"]


class Event(NamedTuple):
    """What happened to a request.

    Attributes:
        number: of the request, as `Engine.submit` gave it.
        token: the next one of its answer; None for one that ends it, which is not given out.
        finish: why the answer ends here: a token that ends it, the limit, or scores that are no numbers (`NO_NUMBERS`);
            None where it goes on.
    """

    number: int
    token: Token | None
    finish: Finish | None


@dataclass
class _Request:
    """An answer being made: `n_read` tokens of it are in the cache, `last` is drawn but not read."""

    number: int
    prompt: Sequence[int]
    end_ids: Container[int]
    sampler: Sampler
    n_left: int
    n_read: int = 0
    last: int = -1


class Engine:
    """Answers to many prompts at once.

    Weights are those the model has when the engine is made; do not change them while it is in use, and make another one
    afterwards. What they are read in is decided when it is made (`babyllm.precision`): in another type they are copied.
    Else they are shared, and those of layers with one input (queries, keys and values; gate and up) become neighbours
    in memory, as parts of one tensor.

    Attributes:
        context: tokens of a prompt and its answer together, at most.
    """

    def __init__(
        self, model: Transformer, *, slots: int = 8, context: int | None = None, prefill_chunk: int = READ
    ) -> None:
        """Make room for the keys and values of `slots` requests of `context` tokens each.

        Args:
            model: in any mode; it is read as in evaluation mode.
            slots: requests that run together; the others wait.
            context: tokens of a prompt and its answer together; None takes the model's `max_seq_len`. A longer one
                needs dynamic RoPE scaling, whose stretch is then that for `context` tokens from the first token on.
            prefill_chunk: prompt tokens read in a step, at most, so that long prompts do not hold the others up.

        Raises:
            UserError: a number is too small, or the context too long for the model.
        """
        self.context = model.config.max_seq_len if context is None else context
        for name, value, least in (
            ("slots", slots, 1),
            ("context", self.context, 2),
            ("prefill_chunk", prefill_chunk, 1),
        ):
            if value < least:
                raise UserError(f"{name}={value}: must be at least {least}")
        self._decoder = Decoder(model, slots, self.context)
        self._end_ids = model.end_ids
        self._slots, self._prefill_chunk, self._vocab_size = slots, prefill_chunk, model.config.vocab_size
        self._numbers = itertools.count()
        self._waiting: deque[_Request] = deque()
        self._joining: _Request | None = None
        self._running: list[_Request] = []

    @property
    def n_running(self) -> int:
        """Requests that have a slot, the one whose prompt is being read included."""
        return len(self._running) + (self._joining is not None)

    @property
    def n_waiting(self) -> int:
        """Requests that wait for a slot."""
        return len(self._waiting)

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to do."""
        return not self.n_running and not self._waiting

    def submit(self, prompt: Sequence[int], sampling: Sampling, end_ids: Container[int] = ()) -> int:
        """Queue a prompt; gives the number its events will carry.

        Args:
            prompt: ids, at least one.
            sampling: how its answer is drawn; stop strings are the caller's business, who sees the text.
            end_ids: tokens that end the answer, beside the model's own (`Transformer.end_ids`).

        Raises:
            UserError: the prompt is empty, leaves no room in the context, or has ids the model does not know.
        """
        require_readable(prompt, self.context, self._vocab_size)
        room = self.context - len(prompt)
        sampler = Sampler(sampling, prompt, self._vocab_size)
        request = _Request(next(self._numbers), prompt, end_ids, sampler, min(sampling.max_new_tokens, room))
        self._waiting.append(request)
        return request.number

    def step(self) -> list[Event]:
        """One token for each running request, then waiting ones join as far as `prefill_chunk` allows; [] when idle."""
        # Under inference mode and without autocast, which would convert the weights anew in every step.
        with torch.inference_mode(), torch.autocast(self._decoder.device.type, enabled=False):
            return [*self._decode(), *self._join()]

    def answer(self, prompt: Sequence[int], sampling: Sampling, end_ids: Container[int] = ()) -> Iterator[int]:
        """The ids of one answer as they are drawn, where nobody else has asked for anything; see `submit`.

        Raises:
            UserError: as `submit`, or the scores are no numbers.
        """
        number = self.submit(prompt, sampling, end_ids)
        try:
            while not self.is_idle:
                for event in self.step():
                    if event.finish == "error":
                        raise UserError(NO_NUMBERS)
                    if event.token is not None:
                        yield event.token.id
        finally:
            self.cancel(number)  # of a caller who has heard enough

    def scores(self, prompt: Sequence[int], k: int) -> Iterator[list[Token]]:
        """The tokens of a prompt with their log-probabilities, part by part; see `prompt_scores`.

        Raises:
            UserError: the prompt is empty, longer than the context, or has ids the model does not know.
        """
        require_readable(prompt, self.context, self._vocab_size, n_new=0)
        return prompt_scores(self._decoder, prompt, k)

    def release(self) -> None:
        """Give the memory back; what it was doing is lost, and it cannot be used any more."""
        del self._decoder
        self._running, self._joining = [], None
        self._waiting.clear()

    def cancel(self, number: int) -> None:
        """Forget a request, wherever it is; unknown numbers are ignored."""
        if self._joining is not None and self._joining.number == number:
            self._joining = None
        for row, request in enumerate(self._running):
            if request.number == number:
                self._leave(row)
                return
        self._waiting = deque(request for request in self._waiting if request.number != number)

    def _decode(self) -> list[Event]:
        if not self._running:
            return []
        tokens = torch.tensor([[request.last] for request in self._running], device=self._decoder.device)
        logits = self._decoder.read(tokens, 0, [request.n_read for request in self._running])
        for request in self._running:
            request.n_read += 1
        return self._draw(0, logits)

    def _join(self) -> list[Event]:
        events = [Event(request.number, None, "length") for request in self._waiting if not request.n_left]
        if events:
            self._waiting = deque(request for request in self._waiting if request.n_left)
        budget = self._prefill_chunk
        while budget > 0 and (group := self._next_to_join(budget)):
            n_parts = [min(len(request.prompt) - request.n_read, budget) for request in group]
            longest = max(n_parts)
            tokens = torch.empty(len(group), longest, dtype=torch.long)
            for row, request, n in zip(tokens, group, n_parts, strict=True):
                row[:n] = torch.tensor(request.prompt[request.n_read : request.n_read + n])
                row[n:] = row[n - 1]
            first = len(self._running)
            lengths = [request.n_read for request in group]
            logits = self._decoder.read(tokens.to(self._decoder.device), first, lengths, n_parts)
            budget -= tokens.numel()
            for request, n in zip(group, n_parts, strict=True):
                request.n_read += n
            self._joining = None
            if group[0].n_read < len(group[0].prompt) and logits[0].amax().isfinite():
                self._joining = group[0]  # a part of a long prompt, which is always alone
                break
            self._running += group
            events += self._draw(first, logits)
        return events

    def _next_to_join(self, budget: int) -> list[_Request]:
        """The requests that have waited longest, as many as can be read together; one with a long prompt is alone."""
        if self._joining is not None:
            return [self._joining]
        group: list[_Request] = []
        while self._waiting and len(self._running) + len(group) < self._slots:
            longest = max(len(request.prompt) for request in (*group, self._waiting[0]))
            if group and longest * (len(group) + 1) > budget:
                break
            group.append(self._waiting.popleft())
        return group

    def _draw(self, first: int, logits: Tensor) -> list[Event]:
        """Draw a token for each row from `first` on, given their logits (N, V); those that end leave."""
        rows = self._running[first:]
        are_numbers = logits.amax(-1).isfinite().tolist()  # a NaN among them is the greatest of all
        events = []
        for row, (request, scores, is_number) in enumerate(zip(rows, logits, are_numbers, strict=True), first):
            if not is_number:
                self._decoder.clear(row)
                events.append(Event(request.number, None, "error"))
                continue
            token = request.sampler.draw(scores)
            request.last = token.id
            request.n_left -= 1
            if token.id in self._end_ids or token.id in request.end_ids:
                events.append(Event(request.number, None, "stop"))
            else:
                events.append(Event(request.number, token, None if request.n_left else "length"))
        for i in reversed(range(len(rows))):
            if events[i].finish:
                self._leave(first + i)
        return events

    def _leave(self, row: int) -> None:
        """Free a row; the last running request moves into it, and the joining one moves up."""
        last = self._running.pop()
        if row < len(self._running):
            self._running[row] = last
            self._decoder.move(len(self._running), row, last.n_read)
        if self._joining is not None:
            self._decoder.move(len(self._running) + 1, len(self._running), self._joining.n_read)
