"""Body of /v1/chat/completions -> ids by the chat template -> GenerationRequest."""

from __future__ import annotations

from babyllm.chat.messages import Unusable
from babyllm.serve.api.chat.chat_body import ChatCompletionBody
from babyllm.serve.api.generation.generation_request import (
    ChoiceRequest,
    GenerationRequest,
    Limits,
    check_counts,
    sampling_of,
)
from babyllm.serve.api.problem import Problem
from babyllm.serve.api.prompt_limits import require_context, require_length
from babyllm.serve.api.validation import UNSUPPORTED, shown
from babyllm.serve.served_model import ServedModel


def chat_request(body: ChatCompletionBody, model: ServedModel, limits: Limits) -> GenerationRequest:
    """The request of a body of /v1/chat/completions.

    Args:
        body: checked body.
        model: description of the model that answers.
        limits: what the server accepts.

    Raises:
        Problem: the request exceeds a limit or does not fit the model; the message names the field.
    """
    check_counts(body, limits)
    if body.top_logprobs and not body.logprobs:
        raise Problem(400, "top_logprobs needs logprobs to be true", param="top_logprobs")
    _check_template_settings(body, model)
    if model.template is None:
        raise Problem(400, model.why_no_chat, param="messages", code="no_chat_template")
    messages = [message.message() for message in body.messages]
    require_length(sum(len(message.content.encode()) for message in messages), model, "messages")
    try:
        ids = model.template.prompt(messages)
    except Unusable as error:
        raise Problem(400, f"messages: {error}", param="messages") from None
    require_context(len(ids), model, 1, "messages")
    limit = min(model.context - len(ids), body.max_tokens, body.max_completion_tokens)
    logprobs = body.top_logprobs if body.logprobs else None
    samplings = sampling_of(body, limit, logprobs).several(body.n)
    choices = [ChoiceRequest(ids, sampling, model.end_ids, model.lead) for sampling in samplings]
    return GenerationRequest(choices, len(ids), body.stream, body.stream_options.include_usage, logprobs)


def _check_template_settings(body: ChatCompletionBody, model: ServedModel) -> None:
    """Refuse settings that the chat template would read; others, such as enable_thinking, change nothing."""
    source = model.template.source if model.template else ""
    for name, value in body.chat_template_kwargs.items():
        if value is not None and name in source:
            message = f"chat_template_kwargs.{shown(name)} is not supported here"
            raise Problem(400, message, param=shown(name), code=UNSUPPORTED)
