"""Body of /v1/chat/completions -> ids by the chat template -> GenerationRequest."""

from __future__ import annotations

from collections.abc import Mapping

from babyllm.serve.api.chat.chat_body import ChatCompletionBody, MessagesBody
from babyllm.serve.api.chat.chat_prompt import ChatPrompt, chat_prompt
from babyllm.serve.api.field_types import Effort
from babyllm.serve.api.generation.generation_request import (
    ChoiceRequest,
    GenerationRequest,
    Limits,
    check_counts,
    sampling_of,
)
from babyllm.serve.api.problem import Problem
from babyllm.serve.api.prompt_limits import require_context
from babyllm.serve.api.tools.tool_use import held_to
from babyllm.serve.api.validation import UNSUPPORTED, shown
from babyllm.serve.served_model import THINKING, ServedModel


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
    model = with_settings(body.chat_template_kwargs, body.reasoning_effort, model)
    tools = body.tool_use(model)
    ids, lead, begin = prompt_of(body, model)
    require_context(len(ids), model, 1, "messages")
    limit = min(model.context - len(ids), body.max_tokens, body.max_completion_tokens)
    logprobs = body.top_logprobs if body.logprobs else None
    sampling = held_to(sampling_of(body, model, limit, logprobs, lead), tools, lead, begin, model)
    samplings = sampling.several(body.n)
    is_split = body.separate_reasoning and body.reasoning_format != "none"
    return GenerationRequest(
        [ChoiceRequest(ids, sampling, model.end_ids, lead) for sampling in samplings],
        len(ids),
        body.stream,
        body.stream_options.include_usage,
        logprobs,
        begin if is_split else "content",
        body.include_reasoning,
        tools.form,
    )


def prompt_of(body: MessagesBody, model: ServedModel) -> ChatPrompt:
    """The prompt of the messages of a body.

    Raises:
        Problem: as for `chat_prompt`, or the fields that decide where the prompt ends contradict each other.
    """
    last, asks = body.messages[-1], body.add_generation_prompt
    continues = body.continue_final_message or last.prefix
    if continues and asks:
        message = "add_generation_prompt must be false, or absent, where the last message is continued"
        raise Problem(400, message, param="add_generation_prompt")
    if any(message.prefix for message in body.messages[:-1]):
        raise Problem(400, "prefix: only the last message can be continued", param="prefix")
    if continues and last.tool_calls:
        raise Problem(400, "messages: an answer that has called functions cannot be continued", param="messages")
    messages = body.tool_use(model).messages([message.message() for message in body.messages])
    return chat_prompt(messages, model, asks=asks is not False, continues=continues, param="messages")


def with_settings(settings: Mapping[str, object], effort: Effort | None, model: ServedModel) -> ServedModel:
    """The model with settings of its template: whether to think; those that it does not read change nothing.

    Args:
        settings: settings of the template.
        effort: effort of the reasoning; "none" switches it off.
        model: description of the model.

    Raises:
        Problem: the template reads another of the settings, or enable_thinking is neither true nor false.
    """
    source = model.template.source if model.template else ""
    thinks = settings.get(THINKING)
    if thinks is not None and not isinstance(thinks, bool):
        raise Problem(400, f"chat_template_kwargs.{THINKING} must be true or false", param=THINKING)
    for name, value in settings.items():
        if value is not None and name != THINKING and name in source:
            message = f"chat_template_kwargs.{shown(name)} is not supported here"
            raise Problem(400, message, param=shown(name), code=UNSUPPORTED)
    return model.thinking(False if effort == "none" else thinks)
