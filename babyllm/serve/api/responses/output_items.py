"""The output of a response while it is written: reasoning, messages, calls of functions, and their events."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import Any, Literal

from babyllm.serve.api.tools.parsed_answer import WrittenCall

Json = dict[str, Any]
Kind = Literal["reasoning", "message", "function_call"]
TEXT_EVENT = {"reasoning": "response.reasoning_text", "message": "response.output_text"}
PREFIX = {"reasoning": "rs", "message": "msg", "function_call": "fc"}


@dataclass
class OutputItem:
    """One item of the output.

    Attributes:
        kind: kind of the item.
        index: its index in the output.
        id: its id.
        text: its text so far; of a call, its arguments.
        logprobs: objects with the log-probabilities of its tokens.
        status: "in_progress", "completed" or "incomplete".
        call: the call, if it is one.
    """

    kind: Kind
    index: int
    id: str = ""
    text: str = ""
    logprobs: list[Json] = field(default_factory=list)
    status: str = "in_progress"
    call: WrittenCall | None = None

    def __post_init__(self) -> None:
        """Draw an id."""
        self.id = self.id or f"{PREFIX[self.kind]}_{uuid.uuid4().hex}"

    def json(self) -> Json:
        """The item as it is now."""
        if self.call:
            head = {"id": self.id, "type": "function_call", "call_id": self.call.id, "name": self.call.name}
            return {**head, "arguments": self.text, "status": self.status}
        parts = [self._part()] if self.text or self.status != "in_progress" else []
        if self.kind == "reasoning":
            return {"id": self.id, "type": "reasoning", "summary": [], "content": parts, "status": self.status}
        return {"id": self.id, "type": "message", "role": "assistant", "content": parts, "status": self.status}

    def opening_events(self) -> list[Json]:
        """The events at its beginning."""
        added = {"type": "response.output_item.added", "output_index": self.index, "item": self.json()}
        if self.call:
            return [added]
        return [added, {"type": "response.content_part.added", **self._place(), "part": self._part()}]

    def add(self, text: str, logprobs: list[Json]) -> list[Json]:
        """Append a piece of text; returns the events of it."""
        self.text += text
        self.logprobs += logprobs
        if self.call:
            return [{"type": "response.function_call_arguments.delta", **self._position(), "delta": text}]
        event = {"type": f"{TEXT_EVENT[self.kind]}.delta", **self._place(), "delta": text}
        return [event | ({"logprobs": logprobs} if self.kind == "message" else {})]

    def close(self, status: str) -> list[Json]:
        """End the item; returns the events at its end."""
        self.status = status
        end = {"type": "response.output_item.done", "output_index": self.index, "item": self.json()}
        if self.call:
            whole = {"name": self.call.name, "arguments": self.text}
            return [{"type": "response.function_call_arguments.done", **self._position(), **whole}, end]
        done = {"type": f"{TEXT_EVENT[self.kind]}.done", **self._place(), "text": self.text}
        return [
            done | ({"logprobs": self.logprobs} if self.kind == "message" else {}),
            {"type": "response.content_part.done", **self._place(), "part": self._part()},
            end,
        ]

    def _part(self) -> Json:
        if self.kind == "reasoning":
            return {"type": "reasoning_text", "text": self.text}
        return {"type": "output_text", "text": self.text, "annotations": [], "logprobs": list(self.logprobs)}

    def _position(self) -> Json:
        return {"item_id": self.id, "output_index": self.index}

    def _place(self) -> Json:
        return {**self._position(), "content_index": 0}
