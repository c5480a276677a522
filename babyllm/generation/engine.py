"""Continuous batching: requests join, decode together one token a step, and leave, each as if it were alone.

submit -> waiting -> [parked: a long prompt is read in parts] -> running: one token a step -> left
rows of the decoder's cache: running requests from row 0 upwards, new ones after them; parked ones from the last row
downwards

A long prompt is read in parts, and a part in several steps of a few layers each. Such steps alternate with steps that
read short prompts. So a short prompt waits for little work, and a long one gets every second step, whatever is
submitted after it. Among long prompts, the next part alternates between the shortest and the oldest.

What was read is not read again: its keys and values are copied to pages (`KeptTexts`), and from there to the row of a
request that begins alike. Rows stay contiguous, because attention that gathers pages in every step takes twice as long.

The engine handles ids, not text, and has no threads: one owner calls `step` repeatedly.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Collection, Iterator, Sequence

import torch
from torch import Tensor

from babyllm.errors import UserError
from babyllm.generation.constraints.constraint import Constraint
from babyllm.generation.constraints.matcher import Matcher, matcher_of
from babyllm.generation.decoder import PREFILL_TOKENS, Decoder, require_readable
from babyllm.generation.sampling import NO_NUMBERS, Sampler, Sampling, Token
from babyllm.generation.scheduling.kept_texts import KeptTexts
from babyllm.generation.scheduling.request import Event, Finish, Part, Request
from babyllm.generation.scheduling.short_prompts import short_prompts
from babyllm.generation.scores import prompt_scores
from babyllm.model.transformer import Transformer
from babyllm.tokenizer import Tokenizer

__all__ = ["EFFORT", "Engine", "Event", "Finish"]

EFFORT = 32
"""Work on a long prompt per step, in tokens: as much as this many first tokens take in all layers.

A part has more tokens, since products with few rows are slow, but passes through only a few layers per step.
"""
_MOST_PARKED = 2
_MOST_CACHED_BYTES = 1 << 30  # unless the caller asks for more


class Engine:
    """Answers to many prompts at once.

    The engine uses the weights that the model has at construction. Do not change them while the engine is in use; make
    another engine afterwards. The dtype of products is also chosen at construction (`babyllm.runtime.precision`).
    Weights of another dtype are copied. Else they are shared with the model, and the weights of layers with the same
    input (queries, keys and values; gate and up) become views of one tensor.

    Attributes:
        context: largest number of tokens of a prompt and its answer together.
        n_prompt_tokens: number of prompt tokens of all requests that got a slot.
        n_cached_tokens: number of those that were not read, since their keys and values were kept.
    """

    def __init__(
        self,
        model: Transformer,
        *,
        slots: int = 8,
        context: int | None = None,
        prefill_chunk: int = PREFILL_TOKENS,
        cached_tokens: int | None = None,
        look_up: bool = True,
        tokenizer: Tokenizer | None = None,
    ) -> None:
        """Allocate the KV cache for `slots` requests of `context` tokens each.

        Args:
            model: a model in any mode; it runs as in evaluation mode.
            slots: number of requests that run together; the others wait.
            context: largest number of tokens of a prompt and its answer together; None takes the model's `max_seq_len`.
                More tokens need dynamic RoPE scaling, which then scales for `context` tokens from the first token on.
            prefill_chunk: largest number of prompt tokens read at once. A step reads short prompts up to this total.
                Longer prompts are read in parts over several steps (`EFFORT`), so that they do not delay the others.
            cached_tokens: largest number of tokens whose keys and values are kept for later prompts that begin alike,
                rounded up to whole pages; 0 keeps none. None keeps as many as the slots have room for, in at most 1
                GiB.
            look_up: whether tokens are guessed from earlier ones while a single answer is written (`LookUp`), which
                changes no token and makes answers faster that repeat their prompt or themselves.
            tokenizer: tokenizer of the model, which requests with a constraint need.

        Raises:
            UserError: a number is too small, or the context is too long for the model.
        """
        self.context = model.config.max_seq_len if context is None else context
        for name, value, least in (
            ("slots", slots, 1),
            ("context", self.context, 2),
            ("prefill_chunk", prefill_chunk, 1),
            ("cached_tokens", cached_tokens or 0, 0),
        ):
            if value < least:
                raise UserError(f"{name}={value}: must be at least {least}")
        self._decoder = Decoder(model, slots, self.context)
        if cached_tokens is None:
            cached_tokens = min(slots * self.context, _MOST_CACHED_BYTES // self._decoder.bytes_per_token)
        self._kept = KeptTexts(self._decoder, cached_tokens)
        self.n_prompt_tokens = self.n_cached_tokens = 0
        self._end_ids, self._looks_up, self._tokenizer = model.end_ids, look_up, tokenizer
        self._slots, self._prefill_chunk, self._vocab_size = slots, prefill_chunk, model.config.vocab_size
        self._numbers = itertools.count()
        self._waiting: deque[Request] = deque()
        self._parked: list[Request] = []  # the i-th in the i-th row from the end
        self._running: list[Request] = []
        self._is_turn_of_long, self._n_parts = False, 0

    @property
    def n_running(self) -> int:
        """Number of requests with a slot, including those whose prompts are being read."""
        return len(self._running) + len(self._parked)

    @property
    def n_waiting(self) -> int:
        """Number of requests that wait for a slot."""
        return len(self._waiting)

    @property
    def is_idle(self) -> bool:
        """Whether no request is running or waiting."""
        return not self.n_running and not self._waiting

    def submit(self, prompt: Sequence[int], sampling: Sampling, end_ids: Collection[int] = ()) -> int:
        """Queue a prompt and return the number that its events carry.

        Args:
            prompt: token ids, at least one.
            sampling: settings of the draws; the caller handles stop strings, since it sees the text.
            end_ids: ids of tokens that end the answer, in addition to the model's (`Transformer.end_ids`).

        Raises:
            UserError: the prompt is empty, leaves no room in the context, or has ids outside of the vocabulary; or the
                constraint is wrong, cannot be met, or is too large.
        """
        require_readable(prompt, self.context, self._vocab_size)
        room = self.context - len(prompt)
        sampler = Sampler(sampling, prompt, self._vocab_size, self._matcher(sampling.constraint, end_ids))
        request = Request(next(self._numbers), prompt, end_ids, sampler, min(sampling.max_new_tokens, room))
        self._look_up(request)
        self._waiting.append(request)
        return request.number

    def _matcher(self, constraint: Constraint | None, end_ids: Collection[int]) -> Matcher | None:
        if constraint is None:
            return None
        if self._tokenizer is None:
            raise UserError("a constraint needs the tokenizer: make the Engine with tokenizer=...")
        return matcher_of(constraint, self._tokenizer, [*self._end_ids, *end_ids], self._vocab_size)

    def step(self) -> list[Event]:
        """Run one step: draw a token for each running request, then read prompts within the limit of a step.

        Returns:
            An event for each drawn token and each end of an answer; empty when idle.
        """
        # Autocast is off, because it would convert the weights again in every step.
        with torch.inference_mode(), torch.autocast(self._decoder.device.type, enabled=False):
            return [*self._decode(), *self._join()]

    def answer(self, prompt: Sequence[int], sampling: Sampling, end_ids: Collection[int] = ()) -> Iterator[int]:
        """Stream the token ids of one answer; the engine must be idle. Arguments as for `submit`.

        Raises:
            UserError: as for `submit`, or the scores are not numbers.
        """
        number = self.submit(prompt, sampling, end_ids)
        try:
            while not self.is_idle:
                for event in self.step():
                    if event.finish == "error":
                        raise UserError(event.error)
                    if event.token is not None:
                        yield event.token.id
        finally:
            self.cancel(number)  # the caller may stop before the answer ends

    def scores(self, prompt: Sequence[int], k: int) -> Iterator[list[Token]]:
        """The tokens of a prompt with their log-probabilities in nats, chunk by chunk; see `prompt_scores`.

        Raises:
            UserError: the prompt is empty, longer than the context, or has ids outside of the vocabulary; or the scores
                are not numbers.
        """
        require_readable(prompt, self.context, self._vocab_size, n_new=0)
        return prompt_scores(self._decoder, prompt, k)

    def release(self) -> None:
        """Free the memory. All requests are lost, and the engine cannot be used any more."""
        del self._decoder, self._kept
        self._running, self._parked = [], []
        self._waiting.clear()

    def cancel(self, number: int) -> None:
        """Drop a request in any state; unknown numbers are ignored."""
        for request in self._parked:
            if request.number == number:
                if request.part:
                    self._decoder.clear(request.row)  # the part may have left NaNs in its cache
                self._unpark(request)
                return
        for row, request in enumerate(self._running):
            if request.number == number:
                self._kept.save(row, request.ids)
                self._leave(row)
                return
        self._waiting = deque(request for request in self._waiting if request.number != number)

    def _decode(self) -> list[Event]:
        if not self._running:
            return []
        if any(request.ahead for request in self._running):
            return self._given_out()
        if self._looks_up and len(self._running) == 1 and self._draws_ahead(self._running[0]):
            return self._given_out()
        tokens = torch.tensor([request.drawn[-1:] for request in self._running], device=self._decoder.device)
        logits = self._decoder.read(tokens, 0, [request.n_read for request in self._running])
        for request in self._running:
            request.n_read += 1
        return self._draw(0, logits)

    def _draws_ahead(self, request: Request) -> bool:
        """Read a guess at the only running request's next tokens, if there is one, and draw while the draws agree."""
        guess = request.guess()
        if not guess:
            return False
        tokens = torch.tensor([[*request.drawn[-1:], *guess]], device=self._decoder.device)
        logits = self._decoder.read_all(tokens, 0, [request.n_read])[0]
        if not logits.amax(-1).isfinite().all():  # perhaps only after a wrong guess: read without it
            self._decoder.clear(0, request.n_read)
            return False
        for scores, guessed in zip(logits, [*guess, None], strict=True):
            request.n_read += 1
            request.ahead.append(request.draw(scores, self._end_ids))
            if request.ahead[-1].finish or request.drawn[-1] != guessed:
                break
        request.look_up.judge(len(request.ahead) - 1)
        return True

    def _given_out(self) -> list[Event]:
        """An event of each request that has drawn ahead; this takes no time, so the others go on when none is left."""
        events = []
        for row in reversed(range(len(self._running))):
            request = self._running[row]
            if not request.ahead:
                continue
            events.append(request.ahead.popleft())
            if events[-1].finish:
                self._kept.save(row, request.ids)
                self._leave(row)
        return events

    def _join(self) -> list[Event]:
        events = [request.event(None, "length") for request in self._waiting if not request.n_left]
        if events:
            self._waiting = deque(request for request in self._waiting if request.n_left)
        has_short = any(request.is_short for request in self._waiting)
        has_long = bool(self._parked) or not all(request.is_short for request in self._waiting)
        is_turn_of_long = self._is_turn_of_long or not has_short or self.n_running == self._slots
        if is_turn_of_long and (request := self._next_long()):
            self._is_turn_of_long = False
            return events + self._read_on(request)
        self._is_turn_of_long = has_long
        budget = self._prefill_chunk
        cost, look_up = self._decoder.n_first_tokens, self._look_up
        while group := short_prompts(self._waiting, self._slots - self.n_running, budget, self.context, cost, look_up):
            counts = [request.n_unread for request in group]
            tokens = torch.empty(len(group), max(counts), dtype=torch.long)
            first = len(self._running)
            for row, (request, n) in enumerate(zip(group, counts, strict=True)):
                self._waiting.remove(request)
                self._take(request, first + row)
                tokens[row, :n] = torch.tensor(request.prompt[request.n_read :])
                tokens[row, n:] = tokens[row, n - 1]
            lengths = [request.n_read for request in group]
            logits = self._decoder.read(tokens.to(self._decoder.device), first, lengths, counts)
            budget -= self._decoder.n_first_tokens(max(counts), max(lengths)) * len(group)
            for request in group:
                request.n_read = len(request.prompt)
            self._running += group
            events += self._draw(first, logits)
        return events

    def _look_up(self, request: Request) -> None:
        """Find what the prefix cache has of a waiting request's prompt, and whether the rest is short."""
        request.n_read = self._kept.n_found(request.prompt)
        is_long = len(request.prompt) > self._prefill_chunk
        limit = min(EFFORT, self._prefill_chunk) if is_long else self._prefill_chunk
        request.is_short = self._decoder.n_first_tokens(request.n_unread, request.n_read) <= limit

    def _take(self, request: Request, row: int) -> None:
        """Give a row to a request, with what is kept of its prompt."""
        request.n_read = request.n_cached = self._kept.load(request.prompt, row)
        self.n_prompt_tokens += len(request.prompt)
        self.n_cached_tokens += request.n_read

    def _next_long(self) -> Request | None:
        """The request whose long prompt is read next; at most `_MOST_PARKED` of them hold a slot meanwhile."""
        if begun := [request for request in self._parked if request.part]:
            return begun[0]
        longs = list(self._parked)
        if self.n_running < self._slots and len(longs) < _MOST_PARKED:
            longs += [request for request in self._waiting if not request.is_short]
        if not longs:
            return None
        self._n_parts += 1
        if self._n_parts % 2:
            return min(longs, key=lambda request: request.number)
        return min(longs, key=lambda request: request.n_unread)

    def _read_on(self, request: Request) -> list[Event]:
        """Do one step of work on a long prompt; the request runs once the whole prompt is read."""
        if request.row < 0:
            self._waiting.remove(request)
            self._parked.append(request)
            request.row = self._slots - len(self._parked)
            self._take(request, request.row)
            if request.n_read:
                return []  # copying was work enough
        part = request.part = request.part or self._begin_part(request)
        logits = next(part.steps)
        if logits is None:
            return []
        request.part = None
        request.n_read += part.n
        if not logits.amax().isfinite():
            self._decoder.clear(request.row)
            self._unpark(request)
            return [request.event(None, "error", error=NO_NUMBERS)]
        if request.n_unread:
            self._kept.save(request.row, request.ids)
            return []
        self._unpark(request)
        first = len(self._running)
        if request.row != first:
            self._kept.take(first)
            self._decoder.move(request.row, first, request.n_read)
        self._running.append(request)
        return self._draw(first, logits)

    def _begin_part(self, request: Request) -> Part:
        """The next part of a long prompt: as many tokens as one layer can read in a step, at least `EFFORT`."""
        n = max(EFFORT, self._decoder.n_tokens_in_a_layer(EFFORT, request.n_read))
        part = request.prompt[request.n_read :][: min(n, self._prefill_chunk)]
        tokens = torch.tensor([list(part)], device=self._decoder.device)
        return Part(len(part), self._decoder.read_in_steps(tokens, request.row, request.n_read, EFFORT))

    def _unpark(self, request: Request) -> None:
        """Remove a request from the parked ones; the others move together in the last rows."""
        last = self._parked[-1]
        if last is not request:
            self._decoder.swap(last.row, request.row, max(last.n_held, request.n_held))
            self._parked[self._parked.index(request)] = last
            last.row, request.row = request.row, last.row
            last.part = None  # will begin again in its new row
        self._parked.pop()

    def _draw(self, first: int, logits: Tensor) -> list[Event]:
        """Draw a token for each row from `first` on, given logits (N, V); requests that end free their rows."""
        rows = self._running[first:]
        are_numbers = logits.amax(-1).isfinite().tolist()  # the maximum is NaN if any of them is
        events = []
        for row, (request, scores, is_number) in enumerate(zip(rows, logits, are_numbers, strict=True), first):
            if not is_number:
                self._decoder.clear(row)
                request.n_read = 0
                events.append(request.event(None, "error", error=NO_NUMBERS))
                continue
            is_first = not request.drawn
            events.append(request.draw(scores, self._end_ids))
            if is_first or events[-1].finish:
                self._kept.save(row, request.ids)
        for i in reversed(range(len(rows))):
            if events[i].finish:
                self._leave(first + i)
        return events

    def _leave(self, row: int) -> None:
        """Free a row; the last running request moves into it."""
        last = self._running.pop()
        if row == len(self._running):
            self._kept.leave(row, last.ids)
        else:
            self._running[row] = last
            self._decoder.move(len(self._running), row, last.n_read)
