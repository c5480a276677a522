"""Conversations and their messages, as plain values."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

TOOLS_HEAD = "# Tools\n\nThese functions may be called, with a line of JSON that holds name and arguments:"
SYSTEM, USER, ASSISTANT, TOOL = "system", "user", "assistant", "tool"


class Unusable(ValueError):
    """A record or conversation that cannot be trained on; the message is the reason, without file and line."""


@dataclass(frozen=True)
class ToolCall:
    """A call of a function by the assistant.

    Attributes:
        name: name of the function.
        arguments: arguments of the function, as JSON text; empty for none.
        id: name by which the message with the result refers to the call; empty for none.
    """

    name: str
    arguments: str = "{}"
    id: str = ""

    @property
    def values(self) -> Any:
        """The arguments as the value of their JSON, usually an object.

        Raises:
            Unusable: they are not JSON.
        """
        if not self.arguments.strip():
            return {}
        try:
            return json.loads(self.arguments)
        except (ValueError, RecursionError):
            raise Unusable("the arguments of a tool call are not JSON") from None

    def line(self) -> str:
        """The call as a line of JSON with its name and its arguments.

        Raises:
            Unusable: the arguments are not JSON.
        """
        return json.dumps({"name": self.name, "arguments": self.values}, ensure_ascii=False)


@dataclass(frozen=True)
class Message:
    """A role and what it says.

    Attributes:
        role: system, user, assistant, tool or another name in the data, such as "narrator".
        content: plain text, any valid Unicode string; the name of a special token in it is ordinary text.
        weight: 1 if the message is trained on, 0 if not; None leaves that to its role.
        reasoning: the thoughts before the content, also plain text.
        tools: the functions that can be called, as a JSON list in a system message; empty for none.
        input: the text that an instruction is about, which is the end of the content after a line break; empty for
            none. A template with a field for inputs renders it separately.
        is_cut: whether the end of the content was cut off, so that its end token is not trained on.
        tool_calls: calls of functions, which the content spells out too. A template with a field for calls renders
            them separately.
        beside_calls: what the content says besides the calls; without calls it is empty.
        call_id: id of the call whose result this is; empty for none.
    """

    role: str
    content: str
    weight: int | None = None
    reasoning: str = ""
    tools: str = ""
    input: str = ""
    is_cut: bool = False
    tool_calls: tuple[ToolCall, ...] = ()
    beside_calls: str = ""
    call_id: str = ""

    def with_input(self, input: str) -> Message:
        """The message with an input below its content; if one of them is blank, the content is the other."""
        if not input.strip():
            return self
        if not self.content.strip():
            return replace(self, content=input)
        return replace(self, content=f"{self.content}\n{input}", input=input)

    def with_calls(self, calls: Sequence[ToolCall]) -> Message:
        """The message with calls of functions below its content, one line of JSON each.

        Raises:
            Unusable: the arguments of a call are not JSON.
        """
        if not calls:
            return self
        content = "\n".join([*([self.content] if self.content else []), *(call.line() for call in calls)])
        return replace(self, content=content, tool_calls=tuple(calls), beside_calls=self.content)

    @property
    def instruction(self) -> str:
        """The content without the input."""
        return self.content[: -len(self.input) - 1] if self.input else self.content

    def spelled_out(self, reasoning: bool = True, tools: bool = True, calls: bool = True) -> Message:
        """The message with some of what it has beside its content written into its content.

        Args:
            reasoning: whether the reasoning goes before the content, in `<think>`.
            tools: whether the tools go after the content, one line of JSON each.
            calls: whether the calls are only those that the content spells out.
        """
        if not ((reasoning and self.reasoning) or (tools and self.tools) or (calls and self.tool_calls)):
            return self
        content, thoughts, offered = self.content, self.reasoning, self.tools
        made, beside = ((), "") if calls else (self.tool_calls, self.beside_calls)
        if reasoning and thoughts:
            before = f"<think>\n{thoughts.strip()}\n</think>\n\n"
            content, beside, thoughts = before + content, before + beside if made else "", ""
        if tools and offered:
            lines = [json.dumps(tool, ensure_ascii=False) for tool in json.loads(offered)]
            content, offered = "\n".join([*([content, ""] if content else []), TOOLS_HEAD, *lines]), ""
        return replace(self, content=content, reasoning=thoughts, tools=offered, tool_calls=made, beside_calls=beside)


@dataclass(frozen=True)
class Conversation:
    """Messages in their order.

    Attributes:
        messages: the messages, at least one.
        task: the kind of conversation, by which losses are reported separately.
        id: the origin of the conversation, such as "chats.jsonl:17".
        left_out: names of fields of its record that were not used.
    """

    messages: tuple[Message, ...]
    task: str = ""
    id: str = ""
    left_out: tuple[str, ...] = ()
