"""Functions and calls in the form of /v1/responses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, ClassVar, Literal, TypeAlias

from pydantic import Discriminator, Field, Tag

from babyllm.chat.messages import ASSISTANT, Message, ToolCall
from babyllm.serve.api.field_types import Flag, Text
from babyllm.serve.api.tools.tool_bodies import (
    MAX_TOOLS,
    Allowed,
    AllowedMode,
    Arguments,
    FunctionBody,
    Mode,
    Name,
    Schema,
    choice_branch,
)
from babyllm.serve.api.validation import WRONG, Body, Expected

CHOICES = '"none", "auto", "required", {"type": "function", "name": ...} or allowed_tools'


class FlatTool(Body):
    """A function that can be called."""

    type: Annotated[Literal["function"], Expected('function: {"type": "function", "name": ...}')] = Field(
        description="kind of the tool"
    )
    name: Name = Field(description="name of the function")
    description: Text | None = Field(None, description="what the function does")
    parameters: Schema | None = Field(None, description="JSON schema of the arguments")
    strict: Flag = Field(False, description="whether calls are held to the schema where none is required")

    def function(self) -> FunctionBody:
        """The function in the form of chats."""
        return FunctionBody.model_construct(**self.model_dump(exclude={"type"}))


class FlatChoice(Body):
    """The function that must be called."""

    type: Annotated[Literal["function"], Expected("function")] = Field("function", description="kind of the tool")
    name: Name = Field(description="name of the function")

    def allowed(self) -> Allowed:
        """One call of this function."""
        return Allowed("required", [self.name], is_single=True)


class FlatAllowedChoice(Body):
    """The choice among some of the functions."""

    type: Literal["allowed_tools"] = Field(description="kind of the choice")
    mode: AllowedMode = Field("auto", description="auto, or required if one must be called")
    tools: Annotated[list[FlatChoice], Field(min_length=1, max_length=MAX_TOOLS)] = Field(description="the functions")

    def allowed(self) -> Allowed:
        """Calls of these functions."""
        return Allowed(self.mode, [tool.name for tool in self.tools])


FlatToolChoice: TypeAlias = Annotated[
    Annotated[Mode, Expected(CHOICES), Tag("(mode)")]
    | Annotated[FlatChoice, Tag("(named)")]
    | Annotated[FlatAllowedChoice, Tag("(allowed)")],
    Discriminator(choice_branch, custom_error_type=WRONG, custom_error_message=f"must be {CHOICES}"),
]
FlatTools: TypeAlias = Annotated[list[FlatTool], Field(max_length=MAX_TOOLS)]


class CallItem(Body):
    """A call of an earlier answer."""

    harmless: ClassVar = frozenset({"id", "status", "parsed_arguments"})

    type: Literal["function_call"] = Field(description="kind of the item")
    call_id: Text = Field(description="id of the call")
    name: Name = Field(description="name of the function")
    arguments: Arguments = Field(description="arguments as JSON text")

    def call(self) -> ToolCall:
        """The call in the form that chats use."""
        return ToolCall(self.name, self.arguments or "{}", self.call_id)


def with_call(messages: Sequence[Message], call: ToolCall, reasoning: str) -> list[Message]:
    """The messages with a call, which belongs to the answer that is the last of them or else is a new one.

    Args:
        messages: messages before the call.
        call: the call.
        reasoning: reasoning between them and the call.
    """
    if reasoning or not messages or messages[-1].role != ASSISTANT:
        return [*messages, Message(ASSISTANT, "", reasoning=reasoning).with_calls([call])]
    last = messages[-1]
    said = last.beside_calls if last.tool_calls else last.content
    alone = replace(last, content=said, tool_calls=(), beside_calls="")
    return [*messages[:-1], alone.with_calls([*last.tool_calls, call])]
