"""Answers as JSON objects of the API, whole or in chunks: a serializer for each endpoint."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from babyllm.generation.sampling import Token
from babyllm.serve.api.choice import ChoiceDelta, OffsetToken
from babyllm.serve.api.requests import GenerationRequest
from babyllm.serve.served_model import ServedModel

LEAST_LOGPROB = -9999.0  # JSON has no infinity


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


class Serializer(Protocol):
    """The JSON form of the answers to one request."""

    def response(self, answers: Sequence[CompletedChoice], usage: dict[str, int]) -> dict[str, Any]:
        """The response that holds all answers."""

    def opening_chunks(self) -> list[dict[str, Any]]:
        """Chunks of a stream that come before the first delta."""

    def chunk(self, delta: ChoiceDelta) -> dict[str, Any]:
        """The chunk of a delta."""

    def closing_chunks(self, usage: dict[str, int]) -> list[dict[str, Any]]:
        """Chunks of a stream that come after all deltas."""


def usage_of(request: GenerationRequest, n_completion: int) -> dict[str, int]:
    """The token counts of a request."""
    n_prompt = request.n_prompt_tokens
    return {"prompt_tokens": n_prompt, "completion_tokens": n_completion, "total_tokens": n_prompt + n_completion}


class _Envelope:
    """The fields that every object of a response has."""

    def __init__(self, request: GenerationRequest, model: ServedModel, prefix: str, kinds: tuple[str, str]) -> None:
        self.request, self.model = request, model
        self._id, self._created, self._kinds = f"{prefix}-{uuid.uuid4().hex}", int(time.time()), kinds

    def _object(self, kind: str, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        head = {"id": self._id, "object": kind, "created": self._created, "model": self.model.name}
        return {**head, "choices": choices, **more}

    def _chunk(self, choice: dict[str, Any]) -> dict[str, Any]:
        return self._object(self._kinds[1], [choice], **({"usage": None} if self.request.has_usage else {}))

    def closing_chunks(self, usage: dict[str, int]) -> list[dict[str, Any]]:
        """A chunk with the token counts, if the request asks for them."""
        return [self._object(self._kinds[1], [], usage=usage)] if self.request.has_usage else []


class ChatSerializer(_Envelope):
    """Answers of /v1/chat/completions."""

    def __init__(self, request: GenerationRequest, model: ServedModel) -> None:
        super().__init__(request, model, "chatcmpl", ("chat.completion", "chat.completion.chunk"))

    def response(self, answers: Sequence[CompletedChoice], usage: dict[str, int]) -> dict[str, Any]:
        """The response that holds all answers."""
        choices = [
            {
                "index": index,
                "message": {"role": "assistant", "content": "".join(answer.text), "refusal": None},
                "logprobs": self._logprobs(answer.tokens),
                "finish_reason": answer.finish,
            }
            for index, answer in enumerate(answers)
        ]
        return self._object(self._kinds[0], choices, usage=usage)

    def opening_chunks(self) -> list[dict[str, Any]]:
        """Who speaks."""
        message = {"role": "assistant", "content": ""}
        return [
            self._chunk({"index": index, "delta": message, "logprobs": None, "finish_reason": None})
            for index in range(len(self.request.choices))
        ]

    def chunk(self, delta: ChoiceDelta) -> dict[str, Any]:
        """The chunk of a delta."""
        message = {"content": delta.text} if delta.text else {}
        logprobs = self._logprobs(delta.tokens) if delta.tokens else None
        return self._chunk(
            {"index": delta.number, "delta": message, "logprobs": logprobs, "finish_reason": delta.finish}
        )

    def _logprobs(self, tokens: Sequence[OffsetToken]) -> dict[str, Any] | None:
        if self.request.logprobs is None:
            return None
        content = []
        for placed in tokens:
            token = placed.token
            top = [self._named(other, logprob) for other, logprob in token.top]
            content.append({**self._named(token.id, token.logprob), "top_logprobs": top})
        return {"content": content, "refusal": None}

    def _named(self, token_id: int, logprob: float | None) -> dict[str, Any]:
        raw = self.model.token_bytes(token_id)
        return {"token": raw.decode(errors="replace"), "logprob": _finite(logprob), "bytes": list(raw)}


class CompletionSerializer(_Envelope):
    """Answers of /v1/completions."""

    def __init__(self, request: GenerationRequest, model: ServedModel) -> None:
        super().__init__(request, model, "cmpl", ("text_completion", "text_completion"))

    def response(self, answers: Sequence[CompletedChoice], usage: dict[str, int]) -> dict[str, Any]:
        """The response that holds all answers."""
        choices = [
            {
                "index": index,
                "text": "".join(answer.text),
                "logprobs": self._logprobs(answer.tokens),
                "finish_reason": answer.finish,
            }
            for index, answer in enumerate(answers)
        ]
        return self._object(self._kinds[0], choices, usage=usage)

    def opening_chunks(self) -> list[dict[str, Any]]:
        """Nothing: completions begin with their text."""
        return []

    def chunk(self, delta: ChoiceDelta) -> dict[str, Any]:
        """The chunk of a delta."""
        logprobs = self._logprobs(delta.tokens) if delta.tokens else None
        choice = {"index": delta.number, "text": delta.text, "logprobs": logprobs, "finish_reason": delta.finish}
        return self._chunk(choice)

    def _logprobs(self, tokens: Sequence[OffsetToken]) -> dict[str, Any] | None:
        if self.request.logprobs is None:
            return None
        return {
            "tokens": [self._name(placed.token.id) for placed in tokens],
            "token_logprobs": [_finite(placed.token.logprob) for placed in tokens],
            "top_logprobs": [self._top(placed.token) for placed in tokens],
            "text_offset": [placed.offset for placed in tokens],
        }

    def _top(self, token: Token) -> dict[str, float | None] | None:
        """The log-probabilities of the most probable tokens and of the token itself."""
        if token.logprob is None:
            return None
        logprobs = dict(token.top) | {token.id: token.logprob}
        return {self._name(other): _finite(logprob) for other, logprob in logprobs.items()}

    def _name(self, token_id: int) -> str:
        r"""A token as text; incomplete characters are written as "bytes:\xe4\xbb"."""
        raw = self.model.token_bytes(token_id)
        try:
            return raw.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)


def _finite(logprob: float | None) -> float | None:
    return None if logprob is None else max(logprob, LEAST_LOGPROB)
