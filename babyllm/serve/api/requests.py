"""What a request asks for: JSON of the API -> checked values -> ids of the prompts.

body -> Fields -> prompts as text -> tokenizer or chat template -> Asked

Nothing is passed over that would change the answer: an unknown field is refused by name.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from babyllm.chat.messages import ASSISTANT, SYSTEM, USER, Message, Unusable
from babyllm.generation.sampling import Sampling
from babyllm.serve.api.fields import SHOWN, Fields, is_text, parse_json
from babyllm.serve.api.neutral import (
    HARMLESS,
    HARMLESS_IN_MESSAGES,
    HARMLESS_IN_PARTS,
    NEUTRAL,
    NEUTRAL_IN_MESSAGES,
    NEUTRAL_IN_PARTS,
)
from babyllm.serve.api.problem import Problem
from babyllm.serve.served import ServedModel

MAX_STOPS, MAX_STOP_CHARACTERS = 64, 256
MAX_TOP_LOGPROBS = 20
MAX_MESSAGES = 256
MAX_TEMPERATURE = 2.0
# Below this a draw is the most probable token but for ties of rounding.
LEAST_TEMPERATURE = 1e-4
COMPLETION_TOKENS = 16  # where a completion does not tell how many, as the API has it
SEEDS = 1 << 63

ROLES = {SYSTEM: SYSTEM, "developer": SYSTEM, USER: USER, ASSISTANT: ASSISTANT}


@dataclass(frozen=True)
class Wanted:
    """One answer that is asked for.

    Attributes:
        prompt: ids that the model reads first.
        sampling: how the answer is drawn; stop strings are in it.
        end_ids: tokens that end the answer.
        lead: text at the answer's beginning that is no part of it.
        echo: the prompt's text, which the answer begins with; None for an answer alone.
        n_unseen: ids at the prompt's beginning that no text of the client stands for.
    """

    prompt: list[int]
    sampling: Sampling
    end_ids: frozenset[int]
    lead: str = ""
    echo: str | None = None
    n_unseen: int = 0


@dataclass(frozen=True)
class Asked:
    """What a request asks for.

    Attributes:
        wanted: answers in the order of the response's choices.
        n_prompt_tokens: of all prompts, each counted once.
        is_stream: whether pieces are sent as they come.
        has_usage: whether a stream ends with what was used.
        logprobs: how many alternatives of each token are told; None tells no probabilities.
    """

    wanted: list[Wanted]
    n_prompt_tokens: int
    is_stream: bool
    has_usage: bool
    logprobs: int | None


def read_completion(body: bytes, model: ServedModel, slots: int, most: int) -> Asked:
    """What a request to /v1/completions asks for.

    Args:
        body: JSON.
        model: that is asked.
        slots: answers to one prompt, at most.
        most: answers in all, at most.

    Raises:
        Problem: the request is wrong; its message names the field.
    """
    fields = Fields(parse_json(body))
    _check_model(fields, model)
    n = fields.integer("n", 1, slots)
    prompts = _prompts(fields, model, most // (n or 1))
    is_echo = fields.flag("echo")
    logprobs = None if fields.drops("logprobs", False) else fields.integer("logprobs", 0, MAX_TOP_LOGPROBS)
    limit = _FAR if fields.drops("max_tokens", -1) else fields.integer("max_tokens", 0, _FAR)
    limit = COMPLETION_TOKENS if limit is None else limit
    common = _common(fields, n)
    # Of as many answers as are asked for, all are the best.
    fields.drop(HARMLESS, {**NEUTRAL, "best_of": (common.n,), "add_special_tokens": (True,), "top_logprobs": (0,)})
    ends = frozenset([model.tokenizer.eos_id])
    wanted = []
    for prompt in prompts:
        _require_room(len(prompt.ids), model, 1 if limit else 0, "prompt")
        echo = prompt.text if is_echo else None
        for sampling in common.samplings(min(limit, model.context - len(prompt.ids)), logprobs):
            wanted.append(Wanted(prompt.ids, sampling, ends, echo=echo, n_unseen=prompt.n_unseen))
    n_tokens = sum(len(prompt.ids) for prompt in prompts)
    return Asked(wanted, n_tokens, common.is_stream, common.has_usage, logprobs)


def read_chat(body: bytes, model: ServedModel, slots: int, most: int) -> Asked:
    """What a request to /v1/chat/completions asks for; see `read_completion`."""
    fields = Fields(parse_json(body))
    _check_model(fields, model)
    messages = read_messages(fields)
    has_logprobs = fields.flag("logprobs")
    logprobs = fields.integer("top_logprobs", 0, MAX_TOP_LOGPROBS)
    if logprobs and not has_logprobs:
        raise Problem(400, "top_logprobs needs logprobs to be true", param="top_logprobs")
    names = ("max_completion_tokens", "max_tokens")
    limits = [None if fields.drops(name, -1) else fields.integer(name, 1, _FAR) for name in names]
    common = _common(fields, fields.integer("n", 1, slots))
    _pass_over_template_settings(fields, model)
    fields.drop(HARMLESS, {**NEUTRAL, "best_of": (common.n,), "add_special_tokens": (False,)})
    if model.template is None:
        raise Problem(400, model.why_no_chat, param="messages", code="no_chat_template")
    _require_length(sum(len(message.content.encode()) for message in messages), model, "messages")
    try:
        ids = model.template.prompt(messages)
    except Unusable as error:
        raise Problem(400, f"messages: {error}", param="messages") from None
    _require_room(len(ids), model, 1, "messages")
    room = model.context - len(ids)
    limit = min([room, *(limit for limit in limits if limit is not None)])
    k = (logprobs or 0) if has_logprobs else None
    wanted = [Wanted(ids, sampling, model.end_ids, model.lead) for sampling in common.samplings(limit, k)]
    return Asked(wanted, len(ids), common.is_stream, common.has_usage, k)


def read_messages(fields: Fields) -> list[Message]:
    """The messages of a request.

    Raises:
        Problem: they are none that a chat can have.
    """
    values = fields.take("messages")
    if not isinstance(values, list) or not 1 <= len(values) <= MAX_MESSAGES:
        fields.refuse("messages", f"a list of 1 to {MAX_MESSAGES} messages")
    return [_message(Fields(value, f"messages[{i}]")) for i, value in enumerate(values)]


def _message(fields: Fields) -> Message:
    role, content = fields.take("role"), fields.take("content")
    if not isinstance(role, str) or role not in ROLES:
        fields.refuse("role", f"one of {', '.join(ROLES)}")
    fields.drop(HARMLESS_IN_MESSAGES, NEUTRAL_IN_MESSAGES)
    if content is None and role == ASSISTANT:
        content = ""  # of an answer without words
    if isinstance(content, list):
        content = "".join(_part(Fields(part, fields.place(f"content[{i}]"))) for i, part in enumerate(content))
    if not is_text(content):
        fields.refuse("content", "a string of valid Unicode or a list of parts of type text")
    return Message(ROLES[role], content)


def _part(fields: Fields) -> str:
    if fields.take("type") != "text":
        fields.refuse("type", 'text: {"type": "text", "text": ...}')
    text = fields.text("text")
    if text is None:
        fields.refuse("text", "a string of valid Unicode")
    fields.drop(HARMLESS_IN_PARTS, NEUTRAL_IN_PARTS)
    return text


def _pass_over_template_settings(fields: Fields, model: ServedModel) -> None:
    """Refuse settings of the chat template that it would read; others, such as enable_thinking, change nothing."""
    inner = Fields(fields.take("chat_template_kwargs") or {}, "chat_template_kwargs")
    source = model.template.source if model.template else ""
    inner.drop(frozenset(name for name in inner.names() if name not in source), {})


# ---- what both endpoints have

_FAR = 10**9  # tokens; more are never meant


@dataclass(frozen=True)
class _Common:
    """Settings that both endpoints know."""

    n: int
    is_stream: bool
    has_usage: bool
    sampling: Sampling

    def samplings(self, max_new_tokens: int, logprobs: int | None) -> list[Sampling]:
        """How each of the n answers to a prompt is drawn; with a seed, the first as if it were alone."""
        return replace(self.sampling, max_new_tokens=max_new_tokens, logprobs=logprobs).several(self.n)


def _common(fields: Fields, n: int | None) -> _Common:
    """What both kinds of requests can ask for; what they do not ask for is as `Sampling` has it."""
    is_stream = fields.flag("stream")
    inner = Fields(fields.take("stream_options") or {}, "stream_options")
    has_usage = inner.flag("include_usage")
    inner.drop(frozenset({"include_obfuscation"}), {"continuous_usage_stats": (False,)})
    if has_usage and not is_stream:
        raise Problem(400, "stream_options needs stream to be true", param="stream_options")
    temperature = fields.number("temperature", 0, MAX_TEMPERATURE)
    temperature = Sampling.temperature if temperature is None else temperature
    top_k = fields.integer("top_k", -1, _FAR)
    penalty = fields.number("repetition_penalty", 0.01, 100)
    sampling = Sampling(
        temperature=0.0 if temperature < LEAST_TEMPERATURE else temperature,
        top_k=Sampling.top_k if top_k is None else max(0, top_k),
        top_p=fields.number("top_p", 0, 1),
        min_p=fields.number("min_p", 0, 1),
        repetition_penalty=Sampling.repetition_penalty if penalty is None else penalty,
        seed=fields.integer("seed", -SEEDS, SEEDS - 1),
        stop=_stop(fields),
    )
    return _Common(1 if n is None else n, is_stream, has_usage, sampling)


def _stop(fields: Fields) -> tuple[str, ...]:
    value = fields.take("stop")
    stops = [] if value is None else value if isinstance(value, list) else [value]
    if len(stops) > MAX_STOPS or not all(is_text(stop) and len(stop) <= MAX_STOP_CHARACTERS for stop in stops):
        fields.refuse("stop", f"at most {MAX_STOPS} strings of up to {MAX_STOP_CHARACTERS} characters")
    return tuple(stop for stop in stops if stop)


def _check_model(fields: Fields, model: ServedModel) -> None:
    name = fields.text("model")
    if name is not None and name != model.name:
        shown = name if len(name) <= SHOWN else f"{name[:SHOWN]}..."
        raise Problem(
            404, f"the model {shown!r} is not here; this is {model.name!r}", param="model", code="model_not_found"
        )


@dataclass(frozen=True)
class _Prompt:
    """A prompt as ids, its text, and how many ids stand before what the client gave."""

    ids: list[int]
    text: str
    n_unseen: int


def _prompts(fields: Fields, model: ServedModel, most: int) -> list[_Prompt]:
    value = fields.take("prompt")
    if isinstance(value, str):
        return [_from_text(value, fields, model)]
    if isinstance(value, list) and value:
        if len(value) > most and not isinstance(value[0], int):
            raise Problem(400, f"more than {most} prompts with this n, which this server never takes", param="prompt")
        if all(isinstance(item, str) for item in value):
            return [_from_text(item, fields, model) for item in value]
        if all(isinstance(item, list) for item in value):
            return [_from_ids(item, fields, model) for item in value]
        return [_from_ids(value, fields, model)]
    fields.refuse("prompt", "a string, a list of strings, a list of token ids or a list of such lists")


def _from_text(text: str, fields: Fields, model: ServedModel) -> _Prompt:
    """A text begins a document, as in training."""
    if not is_text(text):
        fields.refuse("prompt", "valid Unicode")
    _require_length(len(text.encode()), model, "prompt")
    return _Prompt([model.tokenizer.eos_id, *model.tokenizer.encode(text)], text, 1)


def _from_ids(ids: list[Any], fields: Fields, model: ServedModel) -> _Prompt:
    _require_room(len(ids), model, 0, "prompt")
    if not ids or not all(type(i) is int and 0 <= i < model.vocab_size for i in ids):
        fields.refuse("prompt", f"made of token ids from 0 to {model.vocab_size - 1}, at least one")
    raw = b"".join(model.tokenizer.token_bytes(i) for i in ids)
    return _Prompt(ids, raw.decode(errors="replace"), 0)


def _require_length(n_bytes: int, model: ServedModel, param: str) -> None:
    """Refuse a text that is too long whatever its tokens are, before it is cut into them."""
    if n_bytes > model.context * model.longest_token:
        at_least = n_bytes // model.longest_token
        raise _too_long(f"at least {at_least}", model, param)


def _require_room(n_tokens: int, model: ServedModel, n_new: int, param: str) -> None:
    if n_tokens + n_new > model.context:
        raise _too_long(str(n_tokens), model, param)


def _too_long(n_tokens: str, model: ServedModel, param: str) -> Problem:
    code = "context_length_exceeded"
    # Clients tell this mistake from others by these very words.
    why = f"this model's maximum context length is {model.context} tokens, and the {param} came to {n_tokens}"
    return Problem(400, f"{why}: the prompt is too long ({code}); make it shorter", param=param, code=code)
