"""An answer divided into reasoning, content and calls, which get ids here."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import Any

from babyllm.chat.messages import ToolCall
from babyllm.chat.tools.answer_parser import AnswerDelta, AnswerParser
from babyllm.chat.tools.call_parser import CallDelta
from babyllm.chat.tools.reasoning import Begin
from babyllm.chat.tools.tool_formats import ToolFormat


def _new_id() -> str:
    return f"call_{uuid.uuid4().hex[:24]}"


@dataclass
class WrittenCall:
    """A call while it is written.

    Attributes:
        name: name of the function.
        arguments: arguments so far, as JSON text.
        id: id of the call.
    """

    name: str
    arguments: str = ""
    id: str = field(default_factory=_new_id)

    def json(self) -> dict[str, Any]:
        """The call as chats have it."""
        return {"id": self.id, "type": "function", "function": {"name": self.name, "arguments": self.arguments}}

    def call(self) -> ToolCall:
        """The call in the form that chats use."""
        return ToolCall(self.name, self.arguments, self.id)


class ParsedAnswer:
    """Divides one answer and keeps its calls.

    Attributes:
        calls: calls so far.
    """

    def __init__(self, begin: Begin, form: ToolFormat | None) -> None:
        """Begin an answer; arguments as for `AnswerParser`."""
        self._parser = AnswerParser(begin, form)
        self.calls: list[WrittenCall] = []

    def add(self, text: str, is_end: bool) -> AnswerDelta:
        """The parts that are certain after a piece of text; arguments as for `AnswerParser.add`."""
        delta = self._parser.add(text, is_end)
        for call in delta.calls:
            if call.name:
                self.calls.append(WrittenCall(call.name))
            self.calls[call.number].arguments += call.arguments
        return delta

    def call_event(self, delta: CallDelta) -> dict[str, Any]:
        """What was added to a call, as streams of chats have it."""
        function = {"arguments": delta.arguments}
        if not delta.name:
            return {"index": delta.number, "function": function}
        head = {"index": delta.number, "id": self.calls[delta.number].id, "type": "function"}
        return {**head, "function": {"name": delta.name, **function}}

    def finish(self, finish: str | None) -> str | None:
        """The finish reason, which calls change."""
        return "tool_calls" if finish == "stop" and self.calls else finish
