"""Answers of /v1/responses as JSON: a whole response, or the events of a stream.

created, in_progress -> for each item: output_item.added, ... .delta, ... .done, output_item.done -> completed
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from contextlib import suppress

from babyllm.chat.messages import ASSISTANT, Message, Unusable
from babyllm.serve.api.chat.token_logprobs import token_logprobs
from babyllm.serve.api.generation.choice import ChoiceDelta
from babyllm.serve.api.generation.serializer import CompletedChoice, Usage
from babyllm.serve.api.problem import Problem, to_json
from babyllm.serve.api.responses.output_items import Json, Kind, OutputItem
from babyllm.serve.api.responses.response_body import ResponseBody
from babyllm.serve.api.responses.response_request import Conversation
from babyllm.serve.api.responses.response_store import ResponseStore, StoredResponse
from babyllm.serve.api.tools.parsed_answer import ParsedAnswer
from babyllm.serve.served_model import ServedModel


class ResponseSerializer:
    """The answer of /v1/responses; when it is complete, the store keeps it, unless the request asks not to."""

    is_typed = True

    def __init__(
        self, body: ResponseBody, conversation: Conversation, model: ServedModel, store: ResponseStore
    ) -> None:
        """Begin a response.

        Args:
            body: body of the request.
            conversation: what the model reads.
            model: description of the model that answers.
            store: responses that can be continued.
        """
        self._body, self._conversation, self._model, self._store = body, conversation, model, store
        self.id, self._created, self._n_events = f"resp_{uuid.uuid4().hex}", int(time.time()), 0
        self._answer = ParsedAnswer(conversation.request.begin, conversation.request.form)
        self._items: list[OutputItem] = []
        self._finish: str | None = None

    def response(self, answers: Sequence[CompletedChoice], usage: Usage) -> Json:
        """The whole response."""
        (answer,) = answers
        self._add(ChoiceDelta(0, "".join(answer.text), tuple(answer.tokens), finish=answer.finish))  # type: ignore[arg-type]
        return self._finished(usage)

    def opening_events(self) -> list[Json]:
        """The response before its first token."""
        response = self._object("in_progress")
        return self._numbered(
            {"type": "response.created", "response": response}, {"type": "response.in_progress", "response": response}
        )

    def delta_events(self, delta: ChoiceDelta) -> list[Json]:
        """The events of a delta."""
        return self._numbered(*self._add(delta))

    def closing_events(self, usage: Usage) -> list[Json]:
        """The whole response."""
        response = self._finished(usage)
        return self._numbered({"type": f"response.{response['status']}", "response": response})

    def failure_events(self, problem: Problem) -> list[Json]:
        """The response with the error that ended it."""
        code = "rate_limit_exceeded" if problem.status == 429 else "server_error"
        response = self._object("failed", error={"code": code, "message": problem.message})
        return self._numbered({"type": "response.failed", "response": response})

    def _add(self, delta: ChoiceDelta) -> list[Json]:
        """Append a delta to the output; returns its events."""
        parts = self._answer.add(delta.text, delta.is_last)
        self._finish = delta.finish
        events = self._append("reasoning", parts.reasoning, []) if parts.reasoning else []
        is_silent = delta.finish == "stop" and not any(item.kind != "reasoning" for item in self._items)
        is_silent = (is_silent or (delta.finish is not None and not self._items)) and not parts.calls
        if parts.content or is_silent:
            logprobs = [] if self._conversation.request.logprobs is None else token_logprobs(delta.tokens, self._model)
            events += self._append("message", parts.content, logprobs)
        for number, name, arguments in parts.calls:
            if name:
                events += self._open(OutputItem("function_call", len(self._items), call=self._answer.calls[number]))
            events += self._items[-1].add(arguments, []) if arguments else []
        if delta.finish:
            events += self._items[-1].close("incomplete" if delta.finish == "length" else "completed")
        return events

    def _append(self, kind: Kind, text: str, logprobs: list[Json]) -> list[Json]:
        """Append a text to the item of this kind, which begins if another one is open; returns the events."""
        is_open = bool(self._items) and self._items[-1].kind == kind
        events = [] if is_open else self._open(OutputItem(kind, len(self._items)))
        return events + (self._items[-1].add(text, logprobs) if text else [])

    def _open(self, item: OutputItem) -> list[Json]:
        """Begin an item, after the end of the one before it; returns the events."""
        events = self._items[-1].close("completed") if self._items else []
        self._items.append(item)
        return events + item.opening_events()

    def _finished(self, usage: Usage) -> Json:
        """The complete response, which the store keeps."""
        reasoning, said = (
            "".join(item.text for item in self._items if item.kind == kind) for kind in ("reasoning", "message")
        )
        counts = {
            "input_tokens": usage.n_prompt,
            "input_tokens_details": {"cached_tokens": usage.n_cached or 0},
            "output_tokens": usage.n_completion,
            "output_tokens_details": {"reasoning_tokens": len(self._model.tokenizer.encode(reasoning))},
            "total_tokens": usage.n_prompt + usage.n_completion,
        }
        is_cut = self._finish == "length"
        response = self._object(
            "incomplete" if is_cut else "completed",
            usage=counts,
            incomplete_details={"reason": "max_output_tokens"} if is_cut else None,
        )
        if self._body.store:
            calls = [call.call() for call in self._answer.calls if not (is_cut and call is self._answer.calls[-1])]
            answer = Message(ASSISTANT, said, reasoning=reasoning)
            with suppress(Unusable):  # a model can write arguments that are not JSON
                answer = answer.with_calls(calls)
            messages = (*self._conversation.messages, answer)
            self._store.add(StoredResponse(self.id, to_json(response), messages))
        return response

    def _numbered(self, *events: Json) -> list[Json]:
        first = self._n_events
        self._n_events += len(events)
        return [{**event, "sequence_number": number} for number, event in enumerate(events, first)]

    def _object(self, status: str, **more: object) -> Json:
        body = self._body
        limit = body.max_output_tokens
        return {
            "id": self.id,
            "object": "response",
            "created_at": self._created,
            "status": status,
            "error": None,
            "incomplete_details": None,
            "instructions": body.instructions or None,
            "max_output_tokens": limit if "max_output_tokens" in body.model_fields_set else None,
            "metadata": body.metadata,
            "model": self._model.name,
            "output": [item.json() for item in self._items],
            "parallel_tool_calls": body.parallel_tool_calls,
            "previous_response_id": body.previous_response_id,
            "reasoning": {"effort": body.reasoning.effort, "summary": None},
            "store": body.store,
            "temperature": body.temperature,
            "text": {"format": body.text.format.asked()},
            "tool_choice": body.tool_choice if isinstance(body.tool_choice, str) else body.tool_choice.model_dump(),
            "tools": [tool.model_dump(exclude_none=True) for tool in body.tools],
            "top_logprobs": body.top_logprobs,
            "top_p": 1.0 if body.top_p is None else body.top_p,
            "truncation": body.truncation,
            "usage": None,
            "user": None,
            **more,
        }
