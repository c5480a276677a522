"""Fields of requests that offer functions and refer to calls of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Protocol, TypeAlias

from pydantic import AfterValidator, Discriminator, Field, Tag
from pydantic_core import PydanticCustomError

from babyllm.chat.messages import ToolCall
from babyllm.serve.api.field_types import Flag, Text, Unicode
from babyllm.serve.api.validation import WRONG, Body, Expected

MAX_TOOLS, MAX_CALLS = 128, 128
CHOICES = '"none", "auto", "required", {"type": "function", "function": {"name": ...}} or allowed_tools'
Mode: TypeAlias = Literal["none", "auto", "required"]
AllowedMode: TypeAlias = Annotated[Literal["auto", "required"], Expected("auto or required")]

Name: TypeAlias = Annotated[
    Unicode,
    Field(pattern=r'^[^"\\\x00-\x1f]{1,128}$'),
    Expected("a name of 1 to 128 characters, without quotes, backslashes and control characters"),
]


def _encodable(value: dict[str, Any]) -> dict[str, Any]:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        raise ValueError("not valid Unicode, or nested too deeply") from None
    return value


Schema: TypeAlias = Annotated[
    dict[str, Any], AfterValidator(_encodable), Expected("a JSON schema of an object, in valid Unicode")
]


class FunctionBody(Body):
    """A function that can be called."""

    name: Name = Field(description="name of the function")
    description: Text | None = Field(None, description="what the function does")
    parameters: Schema | None = Field(None, description="JSON schema of the arguments")
    strict: Flag = Field(False, description="whether calls are held to the schema where none is required")

    def definition(self) -> dict[str, Any]:
        """The function in the form that chat templates expect, with the fields that are given."""
        fields = {"name": self.name, "description": self.description, "parameters": self.parameters}
        return {"type": "function", "function": {name: value for name, value in fields.items() if value is not None}}


class ToolBody(Body):
    """A tool that can be called; all tools are functions."""

    type: Annotated[Literal["function"], Expected('function: {"type": "function", "function": ...}')] = Field(
        description="kind of the tool"
    )
    function: FunctionBody = Field(description="the function")


class NameBody(Body):
    """The name of a function."""

    name: Name = Field(description="name of the function")


class Allowed(NamedTuple):
    """What a choice among functions allows.

    Attributes:
        mode: auto, or required if one must be called.
        names: names of the functions that may be called.
        is_single: whether there may be one call only.
    """

    mode: Mode
    names: Sequence[str]
    is_single: bool = False


class Chooses(Protocol):
    """A choice among functions."""

    def allowed(self) -> Allowed:
        """What it allows."""


class NamedChoice(Body):
    """The function that must be called."""

    type: Annotated[Literal["function"], Expected("function")] = Field("function", description="kind of the tool")
    function: NameBody = Field(description="the function")

    def allowed(self) -> Allowed:
        """One call of this function."""
        return Allowed("required", [self.function.name], is_single=True)


class AllowedTools(Body):
    """Functions that may be called, of those that are offered."""

    mode: AllowedMode = Field("auto", description="auto, or required if one must be called")
    tools: Annotated[list[NamedChoice], Field(min_length=1, max_length=MAX_TOOLS)] = Field(description="the functions")


class AllowedChoice(Body):
    """The choice among some of the functions."""

    type: Literal["allowed_tools"] = Field(description="kind of the choice")
    allowed_tools: AllowedTools = Field(description="functions that may be called")

    def allowed(self) -> Allowed:
        """Calls of these functions."""
        return Allowed(self.allowed_tools.mode, [tool.function.name for tool in self.allowed_tools.tools])


def choice_branch(value: Any) -> str | None:
    """The branch of the types of tool_choice that a value belongs to."""
    if isinstance(value, dict):
        return "(allowed)" if value.get("type") == "allowed_tools" else "(named)"
    return "(mode)" if isinstance(value, str) else None


ToolChoice: TypeAlias = Annotated[
    Annotated[Mode, Expected(CHOICES), Tag("(mode)")]
    | Annotated[NamedChoice, Tag("(named)")]
    | Annotated[AllowedChoice, Tag("(allowed)")],
    Discriminator(choice_branch, custom_error_type=WRONG, custom_error_message=f"must be {CHOICES}"),
]
Tools: TypeAlias = Annotated[list[ToolBody], Field(max_length=MAX_TOOLS)]


def checked_arguments(value: str) -> str:
    """The arguments of a call, which are an object as JSON text; an empty text stands for an empty object.

    Raises:
        PydanticCustomError: they are something else.
    """
    try:
        if not value.strip() or isinstance(json.loads(value), dict):
            return value
    except (ValueError, RecursionError):
        pass
    raise PydanticCustomError(WRONG, "must be a JSON object as text")


Arguments: TypeAlias = Annotated[Text, AfterValidator(checked_arguments)]


class CalledFunction(Body):
    """The function of a call."""

    name: Name = Field(description="name of the function")
    arguments: Arguments = Field("", description="arguments as JSON text")


class CallBody(Body):
    """A call in an answer that a client sends back."""

    harmless: ClassVar = frozenset({"index"})

    id: Text = Field("", description="id of the call")
    type: Annotated[Literal["function"], Expected("function")] = Field("function", description="kind of the tool")
    function: CalledFunction = Field(description="the function and its arguments")

    def call(self) -> ToolCall:
        """The call in the form that chats use."""
        return ToolCall(self.function.name, self.function.arguments or "{}", self.id)
