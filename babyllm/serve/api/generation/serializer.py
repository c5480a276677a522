"""Answers as JSON objects of the API, whole or in events: what the serializers of all endpoints share."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from babyllm.serve.api.generation.choice import ChoiceDelta, OffsetToken
from babyllm.serve.api.generation.generation_request import GenerationRequest
from babyllm.serve.api.problem import Problem
from babyllm.serve.served_model import ServedModel

LEAST_LOGPROB = -9999.0  # JSON has no infinity
Json = dict[str, Any]


@dataclass
class CompletedChoice:
    """An answer assembled from its deltas."""

    text: list[str] = field(default_factory=list)
    tokens: list[OffsetToken] = field(default_factory=list)
    finish: str | None = None

    def add(self, delta: ChoiceDelta) -> None:
        """Append a delta."""
        self.text.append(delta.text)
        self.tokens.extend(delta.tokens)
        self.finish = delta.finish


class Usage(NamedTuple):
    """The token counts of a response.

    Attributes:
        n_prompt: number of tokens of all prompts.
        n_completion: number of tokens of all answers.
        n_cached: number of the prompts' tokens that were not read again; None if it is not known.
    """

    n_prompt: int
    n_completion: int
    n_cached: int | None

    def json(self) -> Json:
        """The object of chats and completions."""
        n_all = self.n_prompt + self.n_completion
        counts = {"prompt_tokens": self.n_prompt, "completion_tokens": self.n_completion, "total_tokens": n_all}
        return (
            counts if self.n_cached is None else {**counts, "prompt_tokens_details": {"cached_tokens": self.n_cached}}
        )


class Serializer(Protocol):
    """The JSON form of the answers to one request.

    Attributes:
        is_typed: whether the events of a stream have names, which are their `type`. If not, the stream ends with
            [DONE].
        id: id of the response.
    """

    is_typed: bool
    id: str

    def response(self, answers: Sequence[CompletedChoice], usage: Usage) -> Json:
        """The response that holds all answers."""

    def opening_events(self) -> list[Json]:
        """Events of a stream that come before the first delta."""

    def delta_events(self, delta: ChoiceDelta) -> list[Json]:
        """The events of a delta."""

    def closing_events(self, usage: Usage) -> list[Json]:
        """Events of a stream that come after all deltas."""

    def failure_events(self, problem: Problem) -> list[Json]:
        """The last events of a stream that cannot be continued."""


def finite(logprob: float | None) -> float | None:
    """A log-probability that JSON can express."""
    return None if logprob is None else max(logprob, LEAST_LOGPROB)


class Envelope:
    """The fields of every object of a response with choices."""

    is_typed = False

    def __init__(self, request: GenerationRequest, model: ServedModel, prefix: str, kinds: tuple[str, str]) -> None:
        """Begin a response.

        Args:
            request: the request that is answered.
            model: description of the model that answers.
            prefix: beginning of the response's id.
            kinds: types of a whole response and of a chunk of a stream.
        """
        self.request, self.model = request, model
        self.id, self._created, self._kinds = f"{prefix}-{uuid.uuid4().hex}", int(time.time()), kinds

    def whole(self, choices: list[Json], usage: Usage) -> Json:
        """The object of a whole response."""
        return self._object(self._kinds[0], choices, usage=usage.json())

    def chunk(self, choice: Json) -> Json:
        """The object of a part of one answer."""
        return self._object(self._kinds[1], [choice], **({"usage": None} if self.request.has_usage else {}))

    def closing_events(self, usage: Usage) -> list[Json]:
        """A chunk with the token counts, if the request asks for them."""
        return [self._object(self._kinds[1], [], usage=usage.json())] if self.request.has_usage else []

    def failure_events(self, problem: Problem) -> list[Json]:
        """The error object."""
        return [problem.body()]

    def _object(self, kind: str, choices: list[Json], **more: Any) -> Json:
        head = {"id": self.id, "object": kind, "created": self._created, "model": self.model.name}
        return {**head, "choices": choices, **more}
