"""A request for an answer and what was answered, as a line of the log of sessions.

body -> Asked; deltas of the answers -> SessionRecorder -> a line, on the disk before the client has the answer whole
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from babyllm.chat.messages import ASSISTANT, SYSTEM, Message, Unusable
from babyllm.serve.api.chat.chat_body import ChatCompletionBody
from babyllm.serve.api.generation.choice import ChoiceDelta
from babyllm.serve.api.generation.generation_request import GenerationRequest
from babyllm.serve.api.responses.response_body import ResponseBody
from babyllm.serve.api.tools.parsed_answer import ParsedAnswer
from babyllm.store.sessions.session_log import ANSWER, SessionLog

SESSION_NAMES = ("session_id", "conversation_id")
"""Keys of `metadata` that name a session."""


class Asked(NamedTuple):
    """What a client says in a request.

    Attributes:
        messages: messages before the answer.
        user: name of the person; empty if the client sends none.
        session: name of the session; empty if the client sends none.
        tools: functions that can be called, as JSON values.
        begun: answer that is continued; None for a new one.
    """

    messages: Sequence[Message]
    user: str
    session: str
    tools: Sequence[Any] = ()
    begun: Message | None = None


def asked_in_chat(body: ChatCompletionBody) -> Asked | None:
    """What a body of /v1/chat/completions says; None if it may not be stored."""
    if body.store is False:
        return None
    messages = [message.message() for message in body.messages]
    begun = messages.pop() if body.continue_final_message or body.messages[-1].prefix else None
    tools = [tool.model_dump(exclude_none=True) for tool in body.tools]
    return Asked(messages, _name(body.user), _session(body.metadata), tools, begun)


def asked_in_response(body: ResponseBody, messages: Sequence[Message]) -> Asked | None:
    """What a body of /v1/responses says; None if it may not be stored.

    Args:
        body: checked body.
        messages: messages of the whole conversation, without instructions.
    """
    if not body.store:
        return None
    instructions = [Message(SYSTEM, body.instructions)] if body.instructions else []
    return Asked([*instructions, *messages], _name(body.user), _session(body.metadata))


class SessionRecorder:
    """Collects the answers to one request and stores them."""

    def __init__(self, log: SessionLog, asked: Asked, request: GenerationRequest, name: str, model: str) -> None:
        """Begin.

        Args:
            log: log that takes the line.
            asked: what the client says.
            request: request in the form that the engine thread takes.
            name: id of the response, by which ratings name its answers.
            model: name of the model.
        """
        self._log, self._asked, self._request, self._name, self._model = log, asked, request, name, model
        self._texts: list[list[str]] = [[] for _ in request.choices]
        self._finishes: list[str | None] = [None] * len(request.choices)
        self._is_stored = False

    def add(self, delta: ChoiceDelta) -> None:
        """Append a delta of an answer."""
        self._texts[delta.number].append(delta.text)
        self._finishes[delta.number] = delta.finish or self._finishes[delta.number]

    async def store(self) -> None:
        """Store the answers; returns when they are on the disk, or cannot be written."""
        self._is_stored = True
        await asyncio.wrap_future(self._log.add(self._line()))

    def end(self) -> None:
        """Store what was written of answers that were not finished, unless that is nothing."""
        if not self._is_stored and any("".join(texts).strip() for texts in self._texts):
            self._is_stored = True
            self._log.add(self._line())

    def _line(self) -> dict[str, Any]:
        asked = self._asked
        line: dict[str, Any] = {"kind": ANSWER, "id": self._name, "model": self._model}
        line |= {"user": self._log.alias(asked.user)} if asked.user else {}
        line |= {"session": self._log.alias(asked.session)} if asked.session else {}
        line |= {"tools": list(asked.tools)} if asked.tools else {}
        answers = [
            message_line(self._message("".join(texts), finish)) | {"finish": finish}
            for texts, finish in zip(self._texts, self._finishes, strict=True)
        ]
        return line | {"messages": [message_line(message) for message in asked.messages], "answers": answers}

    def _message(self, text: str, finish: str | None) -> Message:
        """An answer, with the beginning that it continues."""
        parsed = ParsedAnswer(self._request.begin, self._request.form)
        parts = parsed.add(text, is_end=True)
        message = Message(ASSISTANT, parts.content, reasoning=parts.reasoning)
        if (begun := self._asked.begun) is not None:
            message = replace(
                message, content=begun.content + message.content, reasoning=begun.reasoning + message.reasoning
            )
        try:
            return message.with_calls([call.call() for call in parsed.calls])
        except Unusable:  # a model can write arguments that are not JSON
            return replace(message, content=text)


def message_line(message: Message) -> dict[str, Any]:
    """A message as records of chats have it."""
    said = message.beside_calls if message.tool_calls else message.content
    line: dict[str, Any] = {"role": message.role, "content": said}
    line |= {"reasoning_content": message.reasoning} if message.reasoning else {}
    line |= {"tool_call_id": message.call_id} if message.call_id else {}
    if message.tool_calls:
        line["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": json.dumps(call.values, ensure_ascii=False)},
            }
            for call in message.tool_calls
        ]
    return line


def _session(metadata: Any) -> str:
    named = metadata if isinstance(metadata, dict) else {}
    return next((name for key in SESSION_NAMES if (name := _name(named.get(key)))), "")


def _name(value: Any) -> str:
    return str(value)[:500] if isinstance(value, (str, int)) and not isinstance(value, bool) else ""
