"""Body of /v1/responses -> conversation -> ids by the chat template -> GenerationRequest."""

from __future__ import annotations

from typing import NamedTuple

from babyllm.chat.messages import Message
from babyllm.serve.api.generation.generation_request import ChoiceRequest, GenerationRequest, sampling_of
from babyllm.serve.api.problem import Problem
from babyllm.serve.api.prompt_limits import require_context
from babyllm.serve.api.responses.response_body import LOGPROBS, ResponseBody
from babyllm.serve.api.responses.response_prompt import response_prompt
from babyllm.serve.api.responses.response_store import ResponseStore
from babyllm.serve.api.tools.tool_use import held_to
from babyllm.serve.served_model import ServedModel


class Conversation(NamedTuple):
    """A request for a response.

    Attributes:
        request: the request in the form that the engine thread takes.
        messages: messages of the conversation, without instructions.
    """

    request: GenerationRequest
    messages: tuple[Message, ...]


def response_request(body: ResponseBody, model: ServedModel, store: ResponseStore) -> Conversation:
    """The request of a body of /v1/responses.

    Args:
        body: checked body.
        model: description of the model that answers.
        store: responses that can be continued.

    Raises:
        Problem: the request exceeds a limit or does not fit the model; the message names the field.
    """
    if body.top_logprobs and LOGPROBS not in body.include:
        raise Problem(400, f"top_logprobs needs include to have {LOGPROBS}", param="top_logprobs")
    model = _with_effort(body, model)
    prompt, messages, tools = response_prompt(body, model, store)
    require_context(len(prompt.ids), model, 1, "input")
    limit = min(model.context - len(prompt.ids), body.max_output_tokens)
    logprobs = body.top_logprobs if LOGPROBS in body.include else None
    sampling = held_to(sampling_of(body, model, limit, logprobs, prompt.lead), tools, prompt.lead, prompt.begin, model)
    choice = ChoiceRequest(prompt.ids, sampling, model.end_ids, prompt.lead)
    request = GenerationRequest(
        [choice],
        len(prompt.ids),
        body.stream,
        has_usage=True,
        logprobs=logprobs,
        begin=prompt.begin,
        form=tools.form,
    )
    return Conversation(request, messages)


def input_tokens(body: ResponseBody, model: ServedModel, store: ResponseStore) -> dict[str, object]:
    """The response of /v1/responses/input_tokens: how many tokens the model would read; arguments as above.

    Raises:
        Problem: as for `response_prompt`.
    """
    prompt = response_prompt(body, _with_effort(body, model), store)
    return {"object": "response.input_tokens", "input_tokens": len(prompt.chat.ids)}


def _with_effort(body: ResponseBody, model: ServedModel) -> ServedModel:
    """The model, without reasoning if the request says so."""
    return model.thinking(False if body.reasoning.effort == "none" else None)
