"""What a conversation is: messages with roles, as plain values."""

from __future__ import annotations

from dataclasses import dataclass

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
    """

    role: str
    content: str
    weight: int | None = None


@dataclass(frozen=True)
class Conversation:
    """Messages in their order.

    Attributes:
        messages: at least one.
        task: what kind of conversation it is; losses are told apart by it.
        id: where it comes from, such as "chats.jsonl:17".
    """

    messages: tuple[Message, ...]
    task: str = ""
    id: str = ""
