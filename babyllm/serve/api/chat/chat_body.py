"""The body of /v1/chat/completions, and the messages that other endpoints take too."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from babyllm.chat.messages import ASSISTANT, SYSTEM, TOOL, USER, Message
from babyllm.serve.api.field_types import EMPTY_IS_OBJECT, MAY_BE_UNLIMITED, UNLIMITED, Effort, Flag, Text, Unicode
from babyllm.serve.api.generation.generation_body import MAX_TOP_LOGPROBS, GenerationBody
from babyllm.serve.api.neutral import (
    HARMLESS,
    HARMLESS_IN_MESSAGES,
    HARMLESS_IN_PARTS,
    NEUTRAL,
    NEUTRAL_IN_MESSAGES,
    NEUTRAL_IN_PARTS,
)
from babyllm.serve.api.tools.tool_bodies import MAX_CALLS, CallBody, ToolChoice, Tools
from babyllm.serve.api.tools.tool_use import ToolUse, tool_use
from babyllm.serve.api.validation import WRONG, Body, Expected, Integer
from babyllm.serve.served_model import ServedModel

MAX_MESSAGES = 256
ROLES = {SYSTEM: SYSTEM, "developer": SYSTEM, USER: USER, ASSISTANT: ASSISTANT}
CHAT_ROLES = {**ROLES, TOOL: TOOL}
CONTENT = "a string of valid Unicode or a list of parts of type text"


class TextPart(Body):
    """A part of a message."""

    harmless, neutral = HARMLESS_IN_PARTS, NEUTRAL_IN_PARTS

    type: Annotated[Literal["text"], Expected('text: {"type": "text", "text": ...}')] = Field(
        description="kind of the part"
    )
    text: Text = Field(description="text of the part")


def _branch(value: Any) -> str | None:
    return "(text)" if isinstance(value, str) else "(parts)" if isinstance(value, list) else None


def _require_messages(value: Any) -> Any:
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_MESSAGES:
        raise PydanticCustomError(WRONG, "must be a list of 1 to {most} messages", {"most": MAX_MESSAGES})
    return value


class ChatMessage(Body):
    """A message of a conversation."""

    harmless, neutral = HARMLESS_IN_MESSAGES, NEUTRAL_IN_MESSAGES

    role: Annotated[
        Literal["system", "developer", "user", "assistant", "tool"], Expected(f"one of {', '.join(CHAT_ROLES)}")
    ] = Field(description="author of the message")
    content: Annotated[
        Annotated[Unicode, Expected(CONTENT), Tag("(text)")] | Annotated[list[TextPart], Tag("(parts)")],
        Discriminator(_branch, custom_error_type=WRONG, custom_error_message=f"must be {CONTENT}"),
    ] = Field(description="text of the message")
    reasoning_content: Text = Field("", description="reasoning before the content of an answer")
    reasoning: Text = Field("", description="another name of reasoning_content")
    tool_calls: Annotated[list[CallBody], Field(max_length=MAX_CALLS)] = Field([], description="calls of an answer")
    tool_call_id: Text = Field("", description="id of the call whose result a message of role tool is")
    prefix: Flag = Field(False, description="whether this last message, an answer, is continued")

    @model_validator(mode="before")
    @classmethod
    def _without_words(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.get("content") is None and value.get("role") == ASSISTANT:
            return {**value, "content": ""}
        return value

    @model_validator(mode="after")
    def _only_answers_think(self) -> ChatMessage:
        for name in ("reasoning_content", "reasoning", "prefix", "tool_calls"):
            if getattr(self, name) and self.role != ASSISTANT:
                raise PydanticCustomError(WRONG, "has {name}, which only an answer can have", {"name": name})
        return self

    def message(self) -> Message:
        """The message in the form that chats use, with its parts joined."""
        content = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        reasoning = self.reasoning_content or self.reasoning
        message = Message(CHAT_ROLES[self.role], content, reasoning=reasoning, call_id=self.tool_call_id)
        return message.with_calls([call.call() for call in self.tool_calls])


Messages: TypeAlias = Annotated[
    list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES), BeforeValidator(_require_messages)
]


class MessagesBody(Body):
    """Fields of a conversation and of where its prompt ends."""

    messages: Messages = Field(description="conversation up to the answer")
    add_generation_prompt: Flag | None = Field(
        None, description="whether the prompt ends with what precedes an answer; true unless an answer is continued"
    )
    continue_final_message: Flag = Field(
        False, description="whether the last message, an answer, is continued; the new text is returned"
    )
    tools: Tools = Field([], description="functions that the answer may call")
    tool_choice: ToolChoice = Field("auto", description="whether the answer may call functions, must, or must one")
    parallel_tool_calls: Flag = Field(True, description="whether an answer may have several calls")

    def tool_use(self, model: ServedModel) -> ToolUse:
        """What the request says about functions.

        Args:
            model: description of the model that answers.

        Raises:
            Problem: the fields contradict each other, or the model has no known form of calls.
        """
        return tool_use([tool.function for tool in self.tools], self.tool_choice, self.parallel_tool_calls, model)


class ChatCompletionBody(MessagesBody, GenerationBody):
    """The body of POST /v1/chat/completions."""

    harmless, neutral = HARMLESS, {**NEUTRAL, "add_special_tokens": (False,)}

    max_tokens: Annotated[int, Integer(1, UNLIMITED), MAY_BE_UNLIMITED] = Field(
        UNLIMITED, description="largest number of tokens of the answer; -1 for no limit"
    )
    max_completion_tokens: Annotated[int, Integer(1, UNLIMITED), MAY_BE_UNLIMITED] = Field(
        UNLIMITED, description="another name of max_tokens; the smaller one counts"
    )
    logprobs: Flag = Field(False, description="whether each token comes with its log-probability")
    top_logprobs: Annotated[int, Integer(0, MAX_TOP_LOGPROBS)] = Field(0, description="alternatives of each token")
    separate_reasoning: Flag = Field(
        True, description="whether reasoning that the template marks is sent as reasoning_content"
    )
    include_reasoning: Flag = Field(True, description="whether reasoning that is split off is sent at all")
    reasoning_format: Annotated[Literal["auto", "none", "deepseek"], Expected("auto, deepseek or none")] = Field(
        "auto", description="none leaves reasoning in the content"
    )
    reasoning_effort: Effort | None = Field(
        None, description="none switches reasoning off if the template can; others change nothing"
    )
    user: Any = Field(None, description="name of the person, by whom stored sessions are told apart")
    metadata: Any = Field(None, description="session_id names the session, where the server stores them")
    store: Any = Field(None, description="false keeps the answer out of the sessions that a server stores")
    chat_template_kwargs: Annotated[dict[str, Any], Expected("a JSON object"), EMPTY_IS_OBJECT] = Field(
        {}, description="enable_thinking, and settings that the chat template does not read"
    )
