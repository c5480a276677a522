"""Requests of an engine, and what is reported about them."""

from __future__ import annotations

from collections import deque
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from torch import Tensor

from babyllm.generation.constraints.matcher import Broken
from babyllm.generation.sampling import Sampler, Token
from babyllm.generation.scheduling.look_up import LookUp

Finish = Literal["stop", "length", "error"]


class Event(NamedTuple):
    """What happened to a request.

    Attributes:
        number: number of the request, as `Engine.submit` returned it.
        token: next token of the answer; None if this is an end token, or no token was drawn.
        finish: finish reason: "stop" for an end token, "length" for the limit, "error" for an answer that cannot go
            on; None if the answer goes on.
        end: end token that was drawn, where `finish` is "stop".
        n_cached: number of the prompt's tokens that were not read, since their keys and values were kept.
        error: why the answer cannot go on, where `finish` is "error": scores that are not numbers (`NO_NUMBERS`), or a
            constraint that no token fits; else empty.
    """

    number: int
    token: Token | None
    finish: Finish | None
    end: Token | None = None
    n_cached: int = 0
    error: str = ""


class Part(NamedTuple):
    """A part of a long prompt that is being read: its length in tokens, and its remaining steps."""

    n: int
    steps: Iterator[Tensor | None]


@dataclass(eq=False)
class Request:
    """A request: `n_read` tokens of prompt and answer are in its row; the last drawn token is not read yet.

    While it waits, `n_read` is the number of tokens that it would take from the prefix cache.
    """

    number: int
    prompt: Sequence[int]
    end_ids: Container[int]
    sampler: Sampler
    n_left: int
    n_read: int = 0
    n_cached: int = 0
    is_short: bool = True  # its unread rest is read at once
    drawn: list[int] = field(default_factory=list)
    ahead: deque[Event] = field(default_factory=deque)  # what was drawn, but not reported yet
    look_up: LookUp = field(default_factory=LookUp)
    row: int = -1  # only while parked
    part: Part | None = None  # only while parked

    @property
    def n_unread(self) -> int:
        """Number of tokens of the prompt that are still to be read."""
        return len(self.prompt) - self.n_read

    @property
    def n_held(self) -> int:
        """Number of columns of its row in use, including those of the part being read."""
        return self.n_read + (self.part.n if self.part else 0)

    @property
    def ids(self) -> list[int]:
        """The tokens of prompt and answer that are in its row."""
        return [*self.prompt, *self.drawn][: self.n_read]

    def guess(self) -> list[int]:
        """A guess at the tokens after the last drawn one, such that one more can be drawn after them."""
        return self.look_up.guess([*self.prompt, *self.drawn], self.n_left - 1)

    def draw(self, scores: Tensor, end_ids: Container[int]) -> Event:
        """Draw the next token, given its logits (V,) and the model's end tokens."""
        try:
            token = self.sampler.draw(scores)
        except Broken as error:
            return self.event(None, "error", error=str(error))
        self.drawn.append(token.id)
        self.n_left -= 1
        if token.id in end_ids or token.id in self.end_ids:
            return self.event(None, "stop", token)
        return self.event(token, None if self.n_left else "length")

    def event(self, token: Token | None, finish: Finish | None, end: Token | None = None, *, error: str = "") -> Event:
        """An event of this request."""
        return Event(self.number, token, finish, end, self.n_cached, error)
