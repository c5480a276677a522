"""Texts and conversations as the ids that a model reads, and back."""

from __future__ import annotations

from typing import Any

from babyllm.serve.api.chat.chat_request import prompt_of, with_settings
from babyllm.serve.api.problem import Problem
from babyllm.serve.api.text_prompts import prompts_of
from babyllm.serve.api.tokens.token_bodies import DetokenizeBody, TokenizeBody
from babyllm.serve.served_model import ServedModel


def tokenized(body: TokenizeBody, model: ServedModel) -> dict[str, Any]:
    """The response of /tokenize.

    Args:
        body: checked body.
        model: description of the model that would read the text.

    Raises:
        Problem: the text is too long for any context, or the template refuses the messages.
    """
    if body.prompt is None:
        ids = prompt_of(body, with_settings(body.chat_template_kwargs, None, model)).ids
    else:
        (prompt,) = prompts_of(body.prompt, model, 1, "prompt")
        ids = prompt.ids[prompt.n_unseen :] if body.add_special_tokens is False else prompt.ids
    texts = [model.token_bytes(i).decode(errors="replace") for i in ids] if body.return_token_strs else None
    return {"count": len(ids), "max_model_len": model.context, "tokens": ids, "token_strs": texts}


def detokenized(body: DetokenizeBody, model: ServedModel) -> dict[str, Any]:
    """The response of /detokenize; arguments as for `tokenized`.

    Raises:
        Problem: an id is outside of the vocabulary.
    """
    if not all(0 <= i < model.vocab_size for i in body.tokens):
        raise Problem(400, f"tokens must be ids from 0 to {model.vocab_size - 1}", param="tokens")
    return {"prompt": b"".join(map(model.token_bytes, body.tokens)).decode(errors="replace")}
