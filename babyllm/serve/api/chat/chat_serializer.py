"""Answers of /v1/chat/completions as JSON."""

from __future__ import annotations

from collections.abc import Sequence

from babyllm.serve.api.chat.token_logprobs import token_logprobs
from babyllm.serve.api.generation.choice import ChoiceDelta, OffsetToken
from babyllm.serve.api.generation.generation_request import GenerationRequest
from babyllm.serve.api.generation.serializer import CompletedChoice, Envelope, Json, Usage
from babyllm.serve.api.tools.parsed_answer import ParsedAnswer
from babyllm.serve.served_model import ServedModel


class ChatSerializer(Envelope):
    """Answers of /v1/chat/completions."""

    def __init__(self, request: GenerationRequest, model: ServedModel) -> None:
        """Begin a response; arguments as for `Envelope`."""
        super().__init__(request, model, "chatcmpl", ("chat.completion", "chat.completion.chunk"))
        self._answers = [ParsedAnswer(request.begin, request.form) for _ in request.choices]

    def response(self, answers: Sequence[CompletedChoice], usage: Usage) -> Json:
        """The response that holds all answers."""
        choices = [
            {
                "index": index,
                "message": {"role": "assistant", **self._message(index, answer), "refusal": None},
                "logprobs": self._logprobs(answer.tokens),
                "finish_reason": self._answers[index].finish(answer.finish),
            }
            for index, answer in enumerate(answers)
        ]
        return self.whole(choices, usage)

    def opening_events(self) -> list[Json]:
        """Who speaks; an answer that may be nothing but calls has no content yet, not even an empty one."""
        message = {"role": "assistant", "content": None if self.request.form else ""}
        return [
            self.chunk({"index": index, "delta": message, "logprobs": None, "finish_reason": None})
            for index in range(len(self.request.choices))
        ]

    def delta_events(self, delta: ChoiceDelta) -> list[Json]:
        """The chunk of a delta."""
        answer = self._answers[delta.number]
        parts = answer.add(delta.text, delta.is_last)
        message: Json = {}
        if parts.reasoning and self.request.has_reasoning:
            message["reasoning_content"] = parts.reasoning
        if parts.content:
            message["content"] = parts.content
        if parts.calls:
            message["tool_calls"] = [answer.call_event(call) for call in parts.calls]
        logprobs = self._logprobs(delta.tokens) if delta.tokens else None
        if not (message or logprobs or delta.finish):
            return []
        finish = answer.finish(delta.finish)
        return [self.chunk({"index": delta.number, "delta": message, "logprobs": logprobs, "finish_reason": finish})]

    def _message(self, index: int, answer: CompletedChoice) -> Json:
        parsed = self._answers[index]
        parts = parsed.add("".join(answer.text), is_end=True)
        has_reasoning = self.request.has_reasoning and self.request.begin != "content"
        message: Json = {"content": parts.content} | (
            {"reasoning_content": parts.reasoning or None} if has_reasoning else {}
        )
        if parsed.calls:
            message |= {"content": parts.content or None, "tool_calls": [call.json() for call in parsed.calls]}
        return message

    def _logprobs(self, tokens: Sequence[OffsetToken]) -> Json | None:
        if self.request.logprobs is None:
            return None
        return {"content": token_logprobs(tokens, self.model), "refusal": None}
