"""The body of /v1/responses."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import Discriminator, Field, Tag

from babyllm.chat.messages import ASSISTANT, TOOL, Message
from babyllm.serve.api.chat.chat_body import ROLES
from babyllm.serve.api.field_types import EMPTY_IS_OBJECT, MAY_BE_UNLIMITED, UNLIMITED, Effort, Flag, Text, Unicode
from babyllm.serve.api.generation.generation_body import MAX_TOP_LOGPROBS, SamplingBody, StreamOptions
from babyllm.serve.api.generation.structured_body import FlatFormat, Given
from babyllm.serve.api.neutral import HARMLESS, NEUTRAL, Neutral
from babyllm.serve.api.tools.response_calls import (
    CallItem,
    FlatToolChoice,
    FlatTools,
    with_call,
)
from babyllm.serve.api.tools.tool_use import ToolUse, tool_use
from babyllm.serve.api.validation import WRONG, Body, Expected, Integer
from babyllm.serve.served_model import ServedModel

MAX_ITEMS = 512
LOGPROBS, ENCRYPTED = "message.output_text.logprobs", "reasoning.encrypted_content"
CONTENT = "a string of valid Unicode or a list of parts of type input_text or output_text"
ITEM = "a message or an item of type reasoning, function_call or function_call_output"
INPUT = f"a string of valid Unicode or a list of up to {MAX_ITEMS} items"
OFF: Neutral = {
    **{name: values for name, values in NEUTRAL.items() if name not in ("tools", "tool_choice", "n_probs")},
    "background": (False,),
    "n": (1,),
}


class ItemPart(Body):
    """A part of a message."""

    harmless = frozenset({"annotations", "logprobs", "prompt_cache_breakpoint"})

    type: Annotated[
        Literal["input_text", "output_text", "text"], Expected('input_text: {"type": "input_text", "text": ...}')
    ] = Field(description="kind of the part")
    text: Text = Field(description="text of the part")


def _branch(value: Any) -> str | None:
    return "(text)" if isinstance(value, str) else "(list)" if isinstance(value, list) else None


class MessageItem(Body):
    """A message of the input."""

    harmless = frozenset({"id", "status", "phase"})

    type: Literal["message"] = Field("message", description="kind of the item")
    role: Annotated[Literal["system", "developer", "user", "assistant"], Expected(f"one of {', '.join(ROLES)}")] = (
        Field(description="author of the message")
    )
    content: Annotated[
        Annotated[Unicode, Expected(CONTENT), Tag("(text)")] | Annotated[list[ItemPart], Tag("(list)")],
        Discriminator(_branch, custom_error_type=WRONG, custom_error_message=f"must be {CONTENT}"),
    ] = Field(description="text of the message")

    def text(self) -> str:
        """The text of the message, with its parts joined."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class ReasoningPart(Body):
    """A part of the reasoning before an answer."""

    type: Annotated[Literal["reasoning_text"], Expected("reasoning_text")] = Field(description="kind of the part")
    text: Text = Field(description="text of the part")


class ReasoningItem(Body):
    """The reasoning before the answer that is the next item."""

    harmless = frozenset({"id", "status", "summary", "encrypted_content"})

    type: Literal["reasoning"] = Field(description="kind of the item")
    content: list[ReasoningPart] = Field([], description="parts of the reasoning")


class ResultItem(Body):
    """The result of a call."""

    harmless = frozenset({"id", "status"})

    type: Literal["function_call_output"] = Field(description="kind of the item")
    call_id: Text = Field(description="id of the call")
    output: Annotated[
        Annotated[Unicode, Expected(CONTENT), Tag("(text)")] | Annotated[list[ItemPart], Tag("(list)")],
        Discriminator(_branch, custom_error_type=WRONG, custom_error_message=f"must be {CONTENT}"),
    ] = Field(description="text of the result")

    def message(self) -> Message:
        """The result in the form that chats use."""
        text = self.output if isinstance(self.output, str) else "".join(part.text for part in self.output)
        return Message(TOOL, text, call_id=self.call_id)


KINDS = ("message", "reasoning", "function_call", "function_call_output")


def _item_branch(value: Any) -> str | None:
    kind = (value.get("type") or "message") if isinstance(value, dict) else None
    return f"({kind})" if kind in KINDS else None


Item: TypeAlias = Annotated[
    Annotated[MessageItem, Tag("(message)")]
    | Annotated[ReasoningItem, Tag("(reasoning)")]
    | Annotated[CallItem, Tag("(function_call)")]
    | Annotated[ResultItem, Tag("(function_call_output)")],
    Discriminator(_item_branch, custom_error_type=WRONG, custom_error_message=f"must be {ITEM}"),
]


PLAIN = FlatFormat.model_validate({})


class TextSettings(Body):
    """Settings of the answer's text."""

    harmless = frozenset({"verbosity"})

    format: Annotated[FlatFormat, EMPTY_IS_OBJECT] = Field(PLAIN, description="form of the text")


class ReasoningSettings(Body):
    """Settings of the reasoning."""

    harmless = frozenset({"summary", "generate_summary", "context"})

    effort: Effort | None = Field(
        None, description="none switches reasoning off if the template can; others change nothing"
    )


class ResponseBody(SamplingBody):
    """The body of POST /v1/responses."""

    harmless = HARMLESS | {"max_tool_calls", "reasoning_effort"}
    neutral: ClassVar = OFF

    input: Annotated[
        Annotated[Unicode, Expected(INPUT), Tag("(text)")]
        | Annotated[list[Item], Field(min_length=1, max_length=MAX_ITEMS), Tag("(list)")],
        Discriminator(_branch, custom_error_type=WRONG, custom_error_message=f"must be {INPUT}"),
    ] = Field(description="what the user says, or the items of a conversation")
    instructions: Text = Field("", description="system message of this response; later ones do not keep it")
    previous_response_id: Text | None = Field(None, description="response whose conversation goes on")
    store: Flag = Field(True, description="whether a later request can continue this response")
    user: Any = Field(None, description="name of the person, by whom stored sessions are told apart")
    max_output_tokens: Annotated[int, Integer(1, UNLIMITED), MAY_BE_UNLIMITED] = Field(
        UNLIMITED, description="largest number of tokens of the answer; -1 for no limit"
    )
    text: Annotated[TextSettings, EMPTY_IS_OBJECT] = Field(TextSettings(format=PLAIN), description="form of the answer")
    reasoning: Annotated[ReasoningSettings, EMPTY_IS_OBJECT] = Field(
        ReasoningSettings(effort=None), description="settings of the reasoning"
    )
    truncation: Annotated[Literal["auto", "disabled"], Expected("auto or disabled")] = Field(
        "disabled", description="auto leaves out the oldest turns where the conversation is too long"
    )
    include: Annotated[
        list[Literal["message.output_text.logprobs", "reasoning.encrypted_content"]],
        Expected(f"a list of {LOGPROBS} and {ENCRYPTED}"),
    ] = Field([], description="whether log-probabilities are sent; encrypted reasoning never is")
    top_logprobs: Annotated[int, Integer(0, MAX_TOP_LOGPROBS)] = Field(0, description="alternatives of each token")
    metadata: Annotated[dict[str, str], Expected("a JSON object of strings")] = Field(
        {}, description="notes that come back with the response"
    )
    stream_options: Annotated[StreamOptions, EMPTY_IS_OBJECT] = StreamOptions(include_usage=False)
    tools: FlatTools = Field([], description="functions that the answer may call")
    tool_choice: FlatToolChoice = Field("auto", description="whether the answer may call functions, must, or must one")
    parallel_tool_calls: Flag = Field(True, description="whether an answer may have several calls")

    def tool_use(self, model: ServedModel) -> ToolUse:
        """What the request says about functions.

        Args:
            model: description of the model that answers.

        Raises:
            Problem: the fields contradict each other, or the model has no known form of calls.
        """
        return tool_use([tool.function() for tool in self.tools], self.tool_choice, self.parallel_tool_calls, model)

    def constraints(self) -> Given:
        """The constraints that are given.

        Raises:
            Problem: one of them is not valid.
        """
        return [*self.text.format.constraints(), *super().constraints()]

    def messages(self) -> list[Message]:
        """The messages of the input; reasoning belongs to the answer after it."""
        if isinstance(self.input, str):
            return [Message("user", self.input)]
        messages: list[Message] = []
        reasoning = ""
        for item in self.input:
            if isinstance(item, ReasoningItem):
                reasoning = "".join(part.text for part in item.content)
                continue
            if isinstance(item, CallItem):
                messages = with_call(messages, item.call(), reasoning)
            elif isinstance(item, ResultItem):
                messages.append(item.message())
            else:
                role = ROLES[item.role]
                messages.append(Message(role, item.text(), reasoning=reasoning if role == ASSISTANT else ""))
            reasoning = ""
        return messages
