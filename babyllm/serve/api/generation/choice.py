"""One answer while it is written: tokens of the engine -> text, and the offset of each token in it."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import NamedTuple

from babyllm.generation.engine import Event, Finish
from babyllm.generation.sampling import Token
from babyllm.generation.text import AnswerText
from babyllm.serve.api.generation.generation_request import ChoiceRequest
from babyllm.serve.api.problem import Problem
from babyllm.tokenizer import Tokenizer


class OffsetToken(NamedTuple):
    """A token and its offset in the text of its choice, in characters."""

    token: Token
    offset: int


class ChoiceDelta(NamedTuple):
    """What was added to an answer since its previous delta.

    Attributes:
        number: index of the answer within its request.
        text: new text to show; empty while a character or a stop string may be incomplete.
        tokens: tokens that make up the text.
        n_tokens: number of tokens drawn since the previous delta, shown or not.
        finish: finish reason; None while the answer continues.
        problem: error that ended the answer early; None without one.
        n_cached: number of the prompt's tokens that were not read again; None if it is not known.
    """

    number: int
    text: str = ""
    tokens: tuple[OffsetToken, ...] = ()
    n_tokens: int = 0
    finish: Finish | None = None
    problem: Problem | None = None
    n_cached: int | None = None

    @property
    def is_last(self) -> bool:
        """Whether this is the answer's last delta."""
        return self.finish is not None or self.problem is not None


class ChoiceDecoder:
    """Decodes one answer; tokens are returned together with the text that they complete."""

    def __init__(self, number: int, request: ChoiceRequest, tokenizer: Tokenizer) -> None:
        """Begin an answer.

        Args:
            number: index of the answer within its request.
            request: prompt and sampling of the answer.
            tokenizer: tokenizer of the model.
        """
        self.number, self.request = number, request
        self._tokenizer = tokenizer
        self._text = AnswerText(tokenizer, request.sampling.stop, request.lead)
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._n_placed = 0  # characters of all tokens so far
        self._n_shown = 0
        self._held: list[OffsetToken] = []

    def opening(self, scores: Sequence[Token]) -> ChoiceDelta:
        """The delta that repeats the prompt, for a request with `echo`.

        Args:
            scores: tokens of the prompt with their log-probabilities; empty without log-probabilities.
        """
        assert self.request.echo is not None
        tokens = tuple(self._placed(token) for token in scores[self.request.n_unseen :])
        self._decoder.reset()
        self._n_placed = self._n_shown = len(self.request.echo)
        return ChoiceDelta(self.number, self.request.echo, tokens)

    def take(self, event: Event) -> ChoiceDelta:
        """The delta that an event of the engine adds."""
        token, finish, text = event.token, event.finish, ""
        if token is not None:
            if self.request.sampling.logprobs is not None:
                self._held.append(self._placed(token))
            text = self._text.add(token.id)
        if self._text.is_stopped:
            finish = "stop"
        elif finish:
            text += self._text.end()
        self._n_shown += len(text)
        return ChoiceDelta(self.number, text, self._shown(text, finish), int(token is not None), finish)

    def _placed(self, token: Token) -> OffsetToken:
        placed = OffsetToken(token, self._n_placed)
        self._n_placed += len(self._decoder.decode(self._tokenizer.token_bytes(token.id)))
        return placed

    def _shown(self, text: str, finish: str | None) -> tuple[OffsetToken, ...]:
        """The tokens held back so far whose text is complete now; tokens of a stop string are never returned."""
        if not text and not finish:
            return ()
        if self._text.is_stopped:
            # The lead's characters count in the offsets of tokens, so they count here too.
            shown = [placed for placed in self._held if placed.offset < self._n_shown + self._text.n_lead]
        else:
            shown = self._held
        self._held = []
        return tuple(shown)
