"""Conversations and their messages, as plain values."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

TOOLS_HEAD = "# Tools\n\nThese functions may be called, with a line of JSON that holds name and arguments:"
SYSTEM, USER, ASSISTANT, TOOL = "system", "user", "assistant", "tool"


class Unusable(ValueError):
    """A record or conversation that cannot be trained on; the message is the reason, without file and line."""


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
    """

    role: str
    content: str
    weight: int | None = None
    reasoning: str = ""
    tools: str = ""
    input: str = ""
    is_cut: bool = False

    def with_input(self, input: str) -> Message:
        """The message with an input below its content; if one of them is blank, the content is the other."""
        if not input.strip():
            return self
        if not self.content.strip():
            return replace(self, content=input)
        return replace(self, content=f"{self.content}\n{input}", input=input)

    @property
    def instruction(self) -> str:
        """The content without the input."""
        return self.content[: -len(self.input) - 1] if self.input else self.content

    def spelled_out(self, reasoning: bool = True, tools: bool = True) -> Message:
        """The message with its reasoning, its tools or both written into its content.

        Args:
            reasoning: whether the reasoning goes before the content, in `<think>`.
            tools: whether the tools go after the content, one line of JSON each.
        """
        if not ((reasoning and self.reasoning) or (tools and self.tools)):
            return self
        content, thoughts, offered = self.content, self.reasoning, self.tools
        if reasoning and thoughts:
            content, thoughts = f"<think>\n{thoughts.strip()}\n</think>\n\n{content}", ""
        if tools and offered:
            lines = [json.dumps(tool, ensure_ascii=False) for tool in json.loads(offered)]
            content, offered = "\n".join([*([content, ""] if content else []), TOOLS_HEAD, *lines]), ""
        return replace(self, content=content, reasoning=thoughts, tools=offered)


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
