"""Answers of /v1/completions as JSON."""

from __future__ import annotations

from collections.abc import Sequence

from babyllm.generation.sampling import Token
from babyllm.serve.api.generation.choice import ChoiceDelta, OffsetToken
from babyllm.serve.api.generation.generation_request import GenerationRequest
from babyllm.serve.api.generation.serializer import CompletedChoice, Envelope, Json, Usage, finite
from babyllm.serve.served_model import ServedModel


class CompletionSerializer(Envelope):
    """Answers of /v1/completions."""

    def __init__(self, request: GenerationRequest, model: ServedModel) -> None:
        """Begin a response; arguments as for `Envelope`."""
        super().__init__(request, model, "cmpl", ("text_completion", "text_completion"))

    def response(self, answers: Sequence[CompletedChoice], usage: Usage) -> Json:
        """The response that holds all answers."""
        choices = [
            {
                "index": index,
                "text": "".join(answer.text),
                "logprobs": self._logprobs(answer.tokens),
                "finish_reason": answer.finish,
            }
            for index, answer in enumerate(answers)
        ]
        return self.whole(choices, usage)

    def opening_events(self) -> list[Json]:
        """Nothing: completions begin with their text."""
        return []

    def delta_events(self, delta: ChoiceDelta) -> list[Json]:
        """The chunk of a delta."""
        logprobs = self._logprobs(delta.tokens) if delta.tokens else None
        choice = {"index": delta.number, "text": delta.text, "logprobs": logprobs, "finish_reason": delta.finish}
        return [self.chunk(choice)]

    def _logprobs(self, tokens: Sequence[OffsetToken]) -> Json | None:
        if self.request.logprobs is None:
            return None
        return {
            "tokens": [self._name(placed.token.id) for placed in tokens],
            "token_logprobs": [finite(placed.token.logprob) for placed in tokens],
            "top_logprobs": [self._top(placed.token) for placed in tokens],
            "text_offset": [placed.offset for placed in tokens],
        }

    def _top(self, token: Token) -> dict[str, float | None] | None:
        """The log-probabilities of the most probable tokens and of the token itself."""
        if token.logprob is None:
            return None
        logprobs = dict(token.top) | {token.id: token.logprob}
        return {self._name(other): finite(logprob) for other, logprob in logprobs.items()}

    def _name(self, token_id: int) -> str:
        r"""A token as text; incomplete characters are written as "bytes:\xe4\xbb"."""
        raw = self.model.token_bytes(token_id)
        try:
            return raw.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)
