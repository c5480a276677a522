"""What a conversation is: messages with roles, as plain values."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

TOOLS_HEAD = "# Tools\n\nThese functions may be called, with a line of JSON that holds name and arguments:"
SYSTEM, USER, ASSISTANT, TOOL = "system", "user", "assistant", "tool"


class Unusable(ValueError):
    """A record or conversation that cannot be trained on; the message is the reason, without file and line."""


@dataclass(frozen=True)
class Message:
    """What one speaker says.

    Attributes:
        role: system, user, assistant, tool or one of the data's own, such as "narrator".
        content: any valid Unicode string, plain text: what looks like a special token in it is none.
        weight: 1 if the message is trained on, 0 if not; None leaves that to its role.
        reasoning: what the speaker thinks before it says the content; plain text, too.
        tools: of a system message: the functions that can be called, as a JSON list; empty for none.
        input: what an instruction is about: the end of the content, after a line break. A template with a place for
            inputs has it there; empty for none.
        is_cut: whether the end of the content was cut off, so that the token that ends it is not trained on.
    """

    role: str
    content: str
    weight: int | None = None
    reasoning: str = ""
    tools: str = ""
    input: str = ""
    is_cut: bool = False

    def with_input(self, input: str) -> Message:
        """The message with an input below its content; where either is blank, the other alone is the content."""
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
        """The message with its reasoning, its tools or both in its content, as models are taught to write them.

        Args:
            reasoning: whether the reasoning goes before the content, in `<think>`.
            tools: whether the tools go after the content, a line of JSON for each.
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
        messages: at least one.
        task: what kind of conversation it is; losses are told apart by it.
        id: where it comes from, such as "chats.jsonl:17".
        left_out: names of fields of its record that nothing was made of.
    """

    messages: tuple[Message, ...]
    task: str = ""
    id: str = ""
    left_out: tuple[str, ...] = ()
