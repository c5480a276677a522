"""Conversion of requests: a checked body -> limits of the model -> ids of the prompts -> GenerationRequest.

A field that would change the answer is never ignored: an unknown field is refused by name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from babyllm.chat.messages import Unusable
from babyllm.errors import UserError
from babyllm.generation.sampling import Sampling
from babyllm.serve.api.problem import Problem
from babyllm.serve.api.schemas import ChatCompletionBody, CompletionBody, GenerationBody
from babyllm.serve.api.validation import UNSUPPORTED, shown
from babyllm.serve.served_model import ServedModel

# Below this temperature a draw is the most probable token, except for ties in rounding.
LEAST_TEMPERATURE = 1e-4


@dataclass(frozen=True)
class ChoiceRequest:
    """One answer of a response, which the API calls a choice.

    Attributes:
        prompt: token ids of the prompt.
        sampling: settings of the draws, including stop strings.
        end_ids: ids of tokens that end the answer.
        lead: text that is left out if the answer begins with it.
        echo: text of the prompt, with which the answer begins; None to leave the prompt out.
        n_unseen: number of ids at the prompt's beginning that the server has added to the client's text.
    """

    prompt: list[int]
    sampling: Sampling
    end_ids: frozenset[int]
    lead: str = ""
    echo: str | None = None
    n_unseen: int = 0


@dataclass(frozen=True)
class GenerationRequest:
    """A request in the form that the engine thread takes.

    Attributes:
        choices: answers in the order of the response's choices.
        n_prompt_tokens: number of tokens of all prompts, each prompt counted once.
        is_stream: whether the answer is sent as a stream of deltas.
        has_usage: whether a stream ends with the token counts.
        logprobs: number of alternatives sent with each token; None sends no log-probabilities.
    """

    choices: list[ChoiceRequest]
    n_prompt_tokens: int
    is_stream: bool
    has_usage: bool
    logprobs: int | None


def completion_request(body: CompletionBody, model: ServedModel, slots: int, capacity: int) -> GenerationRequest:
    """The request of a body of /v1/completions.

    Args:
        body: checked body.
        model: description of the served model.
        slots: largest number of answers to one prompt.
        capacity: largest number of answers in all.

    Raises:
        Problem: the request exceeds a limit or does not fit the model; the message names the field.
    """
    _check_common(body, model, slots)
    prompts = _prompts(body, model, capacity // body.n)
    ends = frozenset([model.tokenizer.eos_id])
    choices = []
    for prompt in prompts:
        _require_context(len(prompt.ids), model, 1 if body.max_tokens else 0, "prompt")
        echo = prompt.text if body.echo else None
        for sampling in _samplings(body, min(body.max_tokens, model.context - len(prompt.ids)), body.logprobs):
            choices.append(ChoiceRequest(prompt.ids, sampling, ends, echo=echo, n_unseen=prompt.n_unseen))
    n_tokens = sum(len(prompt.ids) for prompt in prompts)
    return GenerationRequest(choices, n_tokens, body.stream, body.stream_options.include_usage, body.logprobs)


def chat_request(body: ChatCompletionBody, model: ServedModel, slots: int, capacity: int) -> GenerationRequest:
    """The request of a body of /v1/chat/completions; see `completion_request`."""
    _check_common(body, model, slots)
    if body.top_logprobs and not body.logprobs:
        raise Problem(400, "top_logprobs needs logprobs to be true", param="top_logprobs")
    _check_template_settings(body, model)
    if model.template is None:
        raise Problem(400, model.why_no_chat, param="messages", code="no_chat_template")
    messages = [message.message() for message in body.messages]
    _require_length(sum(len(message.content.encode()) for message in messages), model, "messages")
    try:
        ids = model.template.prompt(messages)
    except Unusable as error:
        raise Problem(400, f"messages: {error}", param="messages") from None
    _require_context(len(ids), model, 1, "messages")
    limit = min(model.context - len(ids), body.max_tokens, body.max_completion_tokens)
    logprobs = body.top_logprobs if body.logprobs else None
    choices = [
        ChoiceRequest(ids, sampling, model.end_ids, model.lead) for sampling in _samplings(body, limit, logprobs)
    ]
    return GenerationRequest(choices, len(ids), body.stream, body.stream_options.include_usage, logprobs)


def _check_common(body: GenerationBody, model: ServedModel, slots: int) -> None:
    """Check the fields that both endpoints have, against the model and each other."""
    if body.model is not None and body.model != model.name:
        message = f"the model {shown(body.model)!r} is not here; this is {model.name!r}"
        raise Problem(404, message, param="model", code="model_not_found")
    if body.n > slots:
        raise Problem(400, f"n must be a whole number from 1 to {slots}", param="n")
    # With best_of equal to n, all answers are returned, so it changes nothing.
    if body.best_of not in (None, body.n):
        raise Problem(400, f"best_of is not supported here (only {body.n})", param="best_of", code=UNSUPPORTED)
    if body.stream_options.include_usage and not body.stream:
        raise Problem(400, "stream_options needs stream to be true", param="stream_options")


def _check_template_settings(body: ChatCompletionBody, model: ServedModel) -> None:
    """Refuse settings that the chat template would read; others, such as enable_thinking, change nothing."""
    source = model.template.source if model.template else ""
    for name, value in body.chat_template_kwargs.items():
        if value is not None and name in source:
            message = f"chat_template_kwargs.{shown(name)} is not supported here"
            raise Problem(400, message, param=shown(name), code=UNSUPPORTED)


def _samplings(body: GenerationBody, max_new_tokens: int, logprobs: int | None) -> list[Sampling]:
    """The settings of each of the n answers to a prompt; with a seed, the first is drawn as if it were alone."""
    try:
        return Sampling(
            max_new_tokens=max_new_tokens,
            temperature=0.0 if body.temperature < LEAST_TEMPERATURE else body.temperature,
            top_k=max(0, body.top_k),
            top_p=body.top_p,
            min_p=body.min_p,
            repetition_penalty=body.repetition_penalty,
            seed=body.seed,
            stop=body.stops(),
            logprobs=logprobs,
        ).several(body.n)
    except UserError as error:
        raise Problem(400, str(error)) from None


@dataclass(frozen=True)
class _Prompt:
    """A prompt as ids, its text, and the number of ids that precede the client's text."""

    ids: list[int]
    text: str
    n_unseen: int


def _prompts(body: CompletionBody, model: ServedModel, most: int) -> list[_Prompt]:
    # All items of a list have the same type, so the first one decides.
    is_one = isinstance(body.prompt, str) or isinstance(body.prompt[0], int)
    prompts = cast("list[str] | list[list[int]]", [body.prompt] if is_one else body.prompt)
    if len(prompts) > most:
        raise Problem(400, f"more than {most} prompts with this n, which this server never takes", param="prompt")
    return [_from_text(one, model) if isinstance(one, str) else _from_ids(one, model) for one in prompts]


def _from_text(text: str, model: ServedModel) -> _Prompt:
    """A text as the beginning of a document, after <eos> as in training."""
    _require_length(len(text.encode()), model, "prompt")
    return _Prompt([model.tokenizer.begin_id, *model.tokenizer.encode(text)], text, 1)


def _from_ids(ids: list[int], model: ServedModel) -> _Prompt:
    _require_context(len(ids), model, 0, "prompt")
    if not all(0 <= i < model.vocab_size for i in ids):
        message = f"prompt must be made of token ids from 0 to {model.vocab_size - 1}, at least one"
        raise Problem(400, message, param="prompt")
    raw = b"".join(model.tokenizer.token_bytes(i) for i in ids)
    return _Prompt(ids, raw.decode(errors="replace"), 0)


def _require_length(n_bytes: int, model: ServedModel, param: str) -> None:
    """Refuse a text that is too long for any tokenization, before it is encoded."""
    if n_bytes > model.context * model.longest_token:
        at_least = n_bytes // model.longest_token
        raise _too_long(f"at least {at_least}", model, param)


def _require_context(n_tokens: int, model: ServedModel, n_new: int, param: str) -> None:
    if n_tokens + n_new > model.context:
        raise _too_long(str(n_tokens), model, param)


def _too_long(n_tokens: str, model: ServedModel, param: str) -> Problem:
    code = "context_length_exceeded"
    # Clients recognise this error by this exact wording.
    why = f"this model's maximum context length is {model.context} tokens, and the {param} came to {n_tokens}"
    return Problem(400, f"{why}: the prompt is too long ({code}); make it shorter", param=param, code=code)
