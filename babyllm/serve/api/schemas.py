"""The bodies of requests as pydantic models: what each endpoint accepts, and the source of the OpenAPI document.

Ranges that depend on the served model, such as the context or the number of slots, are checked in `requests`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from babyllm.chat.messages import ASSISTANT, SYSTEM, USER, Message
from babyllm.generation.sampling import Sampling
from babyllm.serve.api.neutral import (
    HARMLESS,
    HARMLESS_IN_MESSAGES,
    HARMLESS_IN_PARTS,
    NEUTRAL,
    NEUTRAL_IN_MESSAGES,
    NEUTRAL_IN_PARTS,
)
from babyllm.serve.api.validation import WRONG, Body, Expected, Integer, Number

MAX_STOPS, MAX_STOP_CHARACTERS = 64, 256
MAX_TOP_LOGPROBS = 20
MAX_MESSAGES = 256
MAX_TEMPERATURE = 2.0
COMPLETION_TOKENS = 16  # the API's default for completions
UNLIMITED = 10**9  # tokens; stands for no limit
SEEDS = 1 << 63
ROLES = {SYSTEM: SYSTEM, "developer": SYSTEM, USER: USER, ASSISTANT: ASSISTANT}
PROMPT = "a string, a list of strings, a list of token ids or a list of such lists"
CONTENT = "a string of valid Unicode or a list of parts of type text"


def _minus_one_is_unlimited(value: Any) -> Any:
    return UNLIMITED if value == -1 else value


def _valid_unicode(value: str) -> str:
    """The text itself, if it has no lone surrogates, which are not characters.

    Raises:
        ValueError: the text has a lone surrogate.
    """
    value.encode()
    return value


def _not_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("true and false are not numbers")
    return value


def _false_is_none(value: Any) -> Any:
    return None if value is False else value


def _empty_is_object(value: Any) -> Any:
    return value or {}


def _require_messages(value: Any) -> Any:
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_MESSAGES:
        raise PydanticCustomError(WRONG, "must be a list of 1 to {most} messages", {"most": MAX_MESSAGES})
    return value


Flag: TypeAlias = Annotated[bool, Expected("true or false")]
Unicode: TypeAlias = Annotated[str, AfterValidator(_valid_unicode)]
Text: TypeAlias = Annotated[Unicode, Expected("a string of valid Unicode")]
Stop: TypeAlias = Annotated[Unicode, Field(max_length=MAX_STOP_CHARACTERS)]
Ids: TypeAlias = Annotated[list[int], Field(min_length=1, fail_fast=True)]
MAY_BE_UNLIMITED = BeforeValidator(_minus_one_is_unlimited)


class TextPart(Body):
    """A part of a message."""

    harmless, neutral = HARMLESS_IN_PARTS, NEUTRAL_IN_PARTS

    type: Annotated[Literal["text"], Expected('text: {"type": "text", "text": ...}')] = Field(
        description="kind of the part"
    )
    text: Text = Field(description="text of the part")


def _branch(value: Any) -> str | None:
    return "(text)" if isinstance(value, str) else "(parts)" if isinstance(value, list) else None


class ChatMessage(Body):
    """A message of a conversation."""

    harmless, neutral = HARMLESS_IN_MESSAGES, NEUTRAL_IN_MESSAGES

    role: Annotated[Literal["system", "developer", "user", "assistant"], Expected(f"one of {', '.join(ROLES)}")] = (
        Field(description="author of the message")
    )
    content: Annotated[
        Annotated[Unicode, Expected(CONTENT), Tag("(text)")] | Annotated[list[TextPart], Tag("(parts)")],
        Discriminator(_branch, custom_error_type=WRONG, custom_error_message=f"must be {CONTENT}"),
    ] = Field(description="text of the message")

    @model_validator(mode="before")
    @classmethod
    def _without_words(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.get("content") is None and value.get("role") == ASSISTANT:
            return {**value, "content": ""}
        return value

    def message(self) -> Message:
        """The message in the form that chats use, with its parts joined."""
        content = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return Message(ROLES[self.role], content)


Messages: TypeAlias = Annotated[
    list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES), BeforeValidator(_require_messages)
]


class StreamOptions(Body):
    """Options of a stream."""

    harmless, neutral = frozenset({"include_obfuscation"}), {"continuous_usage_stats": (False,)}

    include_usage: Flag = Field(False, description="whether the stream ends with the token counts")


class GenerationBody(Body):
    """Fields of both endpoints that generate text; neutral values of other known fields are accepted too."""

    model: Text | None = Field(None, description="name of the served model")
    n: Annotated[int, Integer(1, UNLIMITED, "a whole number from 1 to the number of slots")] = Field(
        1, description="answers to each prompt, at most --slots"
    )
    best_of: Any = Field(None, description="the same as n")
    stream: Flag = Field(False, description="whether the answer is sent in events as it is written")
    stream_options: Annotated[StreamOptions, BeforeValidator(_empty_is_object)] = StreamOptions(include_usage=False)
    temperature: Annotated[float, Number(0, MAX_TEMPERATURE)] = Field(
        Sampling.temperature, description="0 takes the most probable token"
    )
    top_k: Annotated[int, Integer(-1, UNLIMITED)] = Field(
        Sampling.top_k or 0, description="most probable tokens that are kept; 0 and -1 keep all"
    )
    top_p: Annotated[float, Number(0, 1)] | None = Field(None, description="total probability of the tokens kept")
    min_p: Annotated[float, Number(0, 1)] | None = Field(
        None, description="least probability of a kept token, as a share of the largest one"
    )
    repetition_penalty: Annotated[float, Number(0.01, 100)] = Field(1.0, description="1 changes nothing")
    seed: Annotated[int, Integer(-SEEDS, SEEDS - 1)] | None = Field(None, description="the same seed, the same answer")
    stop: Annotated[
        Stop | Annotated[list[Stop], Field(max_length=MAX_STOPS, fail_fast=True)],
        Expected(f"at most {MAX_STOPS} strings of up to {MAX_STOP_CHARACTERS} characters"),
    ] = Field([], description="strings that end the answer, which does not contain them")

    def stops(self) -> tuple[str, ...]:
        """The stop strings, without empty ones."""
        return tuple(filter(None, [self.stop] if isinstance(self.stop, str) else self.stop))


class ChatCompletionBody(GenerationBody):
    """The body of POST /v1/chat/completions."""

    harmless, neutral = HARMLESS, {**NEUTRAL, "add_special_tokens": (False,)}

    messages: Messages = Field(description="conversation up to the answer")
    max_tokens: Annotated[int, Integer(1, UNLIMITED), MAY_BE_UNLIMITED] = Field(
        UNLIMITED, description="largest number of tokens of the answer; -1 for no limit"
    )
    max_completion_tokens: Annotated[int, Integer(1, UNLIMITED), MAY_BE_UNLIMITED] = Field(
        UNLIMITED, description="another name of max_tokens; the smaller one counts"
    )
    logprobs: Flag = Field(False, description="whether each token comes with its log-probability")
    top_logprobs: Annotated[int, Integer(0, MAX_TOP_LOGPROBS)] = Field(0, description="alternatives of each token")
    chat_template_kwargs: Annotated[dict[str, Any], Expected("a JSON object"), BeforeValidator(_empty_is_object)] = (
        Field({}, description="settings that the chat template does not read")
    )


class CompletionBody(GenerationBody):
    """The body of POST /v1/completions."""

    harmless, neutral = HARMLESS, {**NEUTRAL, "add_special_tokens": (True,), "top_logprobs": (0,)}

    prompt: Annotated[
        Unicode
        | Annotated[list[Unicode], Field(min_length=1, fail_fast=True)]
        | Ids
        | Annotated[list[Ids], Field(min_length=1, fail_fast=True)],
        Expected(PROMPT),
    ] = Field(description="text that the answer continues, or its token ids; several prompts have several answers")
    max_tokens: Annotated[int, Integer(0, UNLIMITED), MAY_BE_UNLIMITED] = Field(
        COMPLETION_TOKENS, description="largest number of tokens of the answer; -1 for no limit"
    )
    echo: Flag = Field(False, description="whether the answer begins with the prompt")
    logprobs: Annotated[Annotated[int, Integer(0, MAX_TOP_LOGPROBS)] | None, BeforeValidator(_false_is_none)] = Field(
        None, description="alternatives of each token; false and null send no log-probabilities"
    )


class FeedbackBody(Body):
    """The body of POST /v1/feedback."""

    messages: Messages = Field(description="conversation whose last message is the rated answer")
    rating: Annotated[Literal[1, -1], BeforeValidator(_not_bool), Expected("1 or -1")] = Field(
        description="1 for a good answer, -1 for a bad one"
    )
