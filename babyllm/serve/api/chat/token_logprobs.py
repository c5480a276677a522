"""Log-probabilities of tokens as objects of chats and responses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from babyllm.serve.api.generation.choice import OffsetToken
from babyllm.serve.api.generation.serializer import finite
from babyllm.serve.served_model import ServedModel


def token_logprobs(tokens: Sequence[OffsetToken], model: ServedModel) -> list[dict[str, Any]]:
    """An object for each token, with its alternatives.

    Args:
        tokens: tokens of an answer.
        model: description of the model that wrote them.
    """
    return [
        {
            **_named(placed.token.id, placed.token.logprob, model),
            "top_logprobs": [_named(other, logprob, model) for other, logprob in placed.token.top],
        }
        for placed in tokens
    ]


def _named(token_id: int, logprob: float | None, model: ServedModel) -> dict[str, Any]:
    raw = model.token_bytes(token_id)
    return {"token": raw.decode(errors="replace"), "logprob": finite(logprob), "bytes": list(raw)}
