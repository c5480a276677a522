"""Prompts as a client sends them: a text, token ids, or a list of either."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from babyllm.serve.api.problem import Problem
from babyllm.serve.api.prompt_limits import require_context, require_length
from babyllm.serve.served_model import ServedModel


@dataclass(frozen=True)
class Prompt:
    """A prompt as ids.

    Attributes:
        ids: token ids.
        text: the prompt as text.
        n_unseen: number of ids at the beginning that precede the client's text.
    """

    ids: list[int]
    text: str
    n_unseen: int


def prompts_of(
    given: str | list[str] | list[int] | list[list[int]], model: ServedModel, most: int, param: str
) -> list[Prompt]:
    """The prompts of a field.

    Args:
        given: a text, ids, or a list of either.
        model: description of the model that reads them.
        most: largest number of prompts.
        param: name of the field.

    Raises:
        Problem: there are too many prompts, or one is too long or has an id outside of the vocabulary.
    """
    # All items of a list have the same type, so the first one decides.
    is_one = isinstance(given, str) or isinstance(given[0], int)
    prompts = cast("list[str] | list[list[int]]", [given] if is_one else given)
    if len(prompts) > most:
        raise Problem(400, f"{param}: more than {most} prompts, which this server never takes", param=param)
    return [_from_text(one, model, param) if isinstance(one, str) else _from_ids(one, model, param) for one in prompts]


def _from_text(text: str, model: ServedModel, param: str) -> Prompt:
    """A text as the beginning of a document, after <eos> as in training."""
    require_length(len(text.encode()), model, param)
    return Prompt([model.tokenizer.begin_id, *model.tokenizer.encode(text)], text, 1)


def _from_ids(ids: list[int], model: ServedModel, param: str) -> Prompt:
    require_context(len(ids), model, 0, param)
    if not all(0 <= i < model.vocab_size for i in ids):
        message = f"{param} must be made of token ids from 0 to {model.vocab_size - 1}, at least one"
        raise Problem(400, message, param=param)
    raw = b"".join(model.tokenizer.token_bytes(i) for i in ids)
    return Prompt(ids, raw.decode(errors="replace"), 0)
