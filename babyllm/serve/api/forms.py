"""Answers as JSON objects of the API, whole or in chunks: `ChatForm` and `CompletionForm`, alike from outside."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from babyllm.generation.sampling import Token
from babyllm.serve.api.answer import Piece, PlacedToken
from babyllm.serve.api.requests import Asked
from babyllm.serve.served import ServedModel

LEAST_LOGPROB = -9999.0  # JSON has no infinity


@dataclass
class Whole:
    """An answer put together from its pieces."""

    text: list[str] = field(default_factory=list)
    tokens: list[PlacedToken] = field(default_factory=list)
    finish: str | None = None

    def add(self, piece: Piece) -> None:
        """Put a piece behind those before it."""
        self.text.append(piece.text)
        self.tokens.extend(piece.tokens)
        self.finish = piece.finish


class Form(Protocol):
    """How the answers to one request are written."""

    def whole(self, answers: Sequence[Whole], usage: dict[str, int]) -> dict[str, Any]:
        """The response that holds all answers."""

    def openings(self) -> list[dict[str, Any]]:
        """Chunks of a stream that come before all pieces."""

    def chunk(self, piece: Piece) -> dict[str, Any]:
        """The chunk of a piece."""

    def ending(self, usage: dict[str, int]) -> list[dict[str, Any]]:
        """Chunks of a stream that come behind all pieces."""


def used(asked: Asked, n_completion: int) -> dict[str, int]:
    """What a request has used."""
    n_prompt = asked.n_prompt_tokens
    return {"prompt_tokens": n_prompt, "completion_tokens": n_completion, "total_tokens": n_prompt + n_completion}


class _Envelope:
    """What every object of a response has."""

    def __init__(self, asked: Asked, model: ServedModel, prefix: str, kinds: tuple[str, str]) -> None:
        self.asked, self.model = asked, model
        self._id, self._created, self._kinds = f"{prefix}-{uuid.uuid4().hex}", int(time.time()), kinds

    def _object(self, kind: str, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        head = {"id": self._id, "object": kind, "created": self._created, "model": self.model.name}
        return {**head, "choices": choices, **more}

    def _chunk(self, choice: dict[str, Any]) -> dict[str, Any]:
        return self._object(self._kinds[1], [choice], **({"usage": None} if self.asked.has_usage else {}))

    def ending(self, usage: dict[str, int]) -> list[dict[str, Any]]:
        """What was used, if that was asked for."""
        return [self._object(self._kinds[1], [], usage=usage)] if self.asked.has_usage else []


class ChatForm(_Envelope):
    """Answers of /v1/chat/completions."""

    def __init__(self, asked: Asked, model: ServedModel) -> None:
        super().__init__(asked, model, "chatcmpl", ("chat.completion", "chat.completion.chunk"))

    def whole(self, answers: Sequence[Whole], usage: dict[str, int]) -> dict[str, Any]:
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

    def openings(self) -> list[dict[str, Any]]:
        """Who speaks."""
        delta = {"role": "assistant", "content": ""}
        return [
            self._chunk({"index": index, "delta": delta, "logprobs": None, "finish_reason": None})
            for index in range(len(self.asked.wanted))
        ]

    def chunk(self, piece: Piece) -> dict[str, Any]:
        """The chunk of a piece."""
        delta = {"content": piece.text} if piece.text else {}
        logprobs = self._logprobs(piece.tokens) if piece.tokens else None
        return self._chunk({"index": piece.number, "delta": delta, "logprobs": logprobs, "finish_reason": piece.finish})

    def _logprobs(self, tokens: Sequence[PlacedToken]) -> dict[str, Any] | None:
        if self.asked.logprobs is None:
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


class CompletionForm(_Envelope):
    """Answers of /v1/completions."""

    def __init__(self, asked: Asked, model: ServedModel) -> None:
        super().__init__(asked, model, "cmpl", ("text_completion", "text_completion"))

    def whole(self, answers: Sequence[Whole], usage: dict[str, int]) -> dict[str, Any]:
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

    def openings(self) -> list[dict[str, Any]]:
        """Nothing: completions begin with their text."""
        return []

    def chunk(self, piece: Piece) -> dict[str, Any]:
        """The chunk of a piece."""
        logprobs = self._logprobs(piece.tokens) if piece.tokens else None
        choice = {"index": piece.number, "text": piece.text, "logprobs": logprobs, "finish_reason": piece.finish}
        return self._chunk(choice)

    def _logprobs(self, tokens: Sequence[PlacedToken]) -> dict[str, Any] | None:
        if self.asked.logprobs is None:
            return None
        return {
            "tokens": [self._name(placed.token.id) for placed in tokens],
            "token_logprobs": [_finite(placed.token.logprob) for placed in tokens],
            "top_logprobs": [self._top(placed.token) for placed in tokens],
            "text_offset": [placed.offset for placed in tokens],
        }

    def _top(self, token: Token) -> dict[str, float | None] | None:
        """The most probable tokens and, if it is none of them, the token itself."""
        if token.logprob is None:
            return None
        told = dict(token.top) | {token.id: token.logprob}
        return {self._name(other): _finite(logprob) for other, logprob in told.items()}

    def _name(self, token_id: int) -> str:
        r"""A token as text, one that is no whole characters as "bytes:\xe4\xbb"."""
        raw = self.model.token_bytes(token_id)
        try:
            return raw.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)


def _finite(logprob: float | None) -> float | None:
    return None if logprob is None else max(logprob, LEAST_LOGPROB)
