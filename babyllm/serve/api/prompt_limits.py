"""Limits of prompts: the context of the model, checked before and after a text is encoded."""

from __future__ import annotations

from babyllm.serve.api.problem import Problem
from babyllm.serve.served_model import ServedModel

TOO_LONG = "context_length_exceeded"


def require_length(n_bytes: int, model: ServedModel, param: str) -> None:
    """Refuse a text that is too long for any tokenization, before it is encoded.

    Args:
        n_bytes: number of bytes of the text in UTF-8.
        model: description of the model that reads it.
        param: name of the field that holds it.

    Raises:
        Problem: the text is too long.
    """
    if n_bytes > model.context * model.longest_token:
        at_least = n_bytes // model.longest_token
        raise _too_long(f"at least {at_least}", model, param)


def require_context(n_tokens: int, model: ServedModel, n_new: int, param: str) -> None:
    """Refuse a prompt that leaves no room for `n_new` tokens.

    Args:
        n_tokens: number of tokens of the prompt.
        model: description of the model that reads it.
        n_new: number of tokens that must fit after it.
        param: name of the field that holds the prompt.

    Raises:
        Problem: the prompt is too long.
    """
    if n_tokens + n_new > model.context:
        raise _too_long(str(n_tokens), model, param)


def _too_long(n_tokens: str, model: ServedModel, param: str) -> Problem:
    # Clients recognise this error by this exact wording.
    why = f"this model's maximum context length is {model.context} tokens, and the {param} came to {n_tokens}"
    return Problem(400, f"{why}: the prompt is too long ({TOO_LONG}); make it shorter", param=param, code=TOO_LONG)
