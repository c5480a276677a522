"""One answer as it is written: tokens of the engine -> text, and where in the text each token stands."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import NamedTuple

from babyllm.generation.engine import Event, Finish
from babyllm.generation.sampling import Token
from babyllm.generation.text import AnswerText
from babyllm.serve.api.problem import Problem
from babyllm.serve.api.requests import Wanted
from babyllm.tokenizer import Tokenizer


class PlacedToken(NamedTuple):
    """A token and the number of characters that stand before it in its choice's text."""

    token: Token
    offset: int


class Piece(NamedTuple):
    """What has become of an answer since the piece before.

    Attributes:
        number: of the answer among those of its request.
        text: to be shown now; empty while a character or a stop string may be incomplete.
        tokens: that the text is made of.
        n_tokens: drawn since the piece before, shown or not.
        finish: why the answer ends here; None where it goes on.
        problem: what kept it from being finished.
    """

    number: int
    text: str = ""
    tokens: tuple[PlacedToken, ...] = ()
    n_tokens: int = 0
    finish: Finish | None = None
    problem: Problem | None = None

    @property
    def is_last(self) -> bool:
        """Whether nothing comes behind it."""
        return self.finish is not None or self.problem is not None


class Answer:
    """The text of one answer. Tokens are given out together with the text that they end."""

    def __init__(self, number: int, wanted: Wanted, tokenizer: Tokenizer) -> None:
        """Begin an answer.

        Args:
            number: its place among those of its request.
            wanted: what is asked for.
            tokenizer: of its tokens.
        """
        self.number, self.wanted = number, wanted
        self._tokenizer = tokenizer
        self._text = AnswerText(tokenizer, wanted.sampling.stop, wanted.lead)
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._n_placed = 0  # characters of all tokens placed
        self._n_shown = 0
        self._held: list[PlacedToken] = []

    def opening(self, scores: Sequence[Token]) -> Piece:
        """The prompt, where it is to be given out.

        Args:
            scores: the prompt's tokens with their log-probabilities, or none of them.
        """
        assert self.wanted.echo is not None
        tokens = tuple(self._placed(token) for token in scores[self.wanted.n_unseen :])
        self._decoder.reset()
        self._n_placed = self._n_shown = len(self.wanted.echo)
        return Piece(self.number, self.wanted.echo, tokens)

    def take(self, event: Event) -> Piece:
        """What an event of the engine adds."""
        token, finish, text = event.token, event.finish, ""
        if token is not None:
            if self.wanted.sampling.logprobs is not None:
                self._held.append(self._placed(token))
            text = self._text.add(token.id)
        if self._text.is_stopped:
            finish = "stop"
        elif finish:
            text += self._text.end()
        self._n_shown += len(text)
        return Piece(self.number, text, self._shown(text, finish), int(token is not None), finish)

    def _placed(self, token: Token) -> PlacedToken:
        placed = PlacedToken(token, self._n_placed)
        self._n_placed += len(self._decoder.decode(self._tokenizer.token_bytes(token.id)))
        return placed

    def _shown(self, text: str, finish: str | None) -> tuple[PlacedToken, ...]:
        """The tokens held back that are complete now; those of a stop string are never given out."""
        if not text and not finish:
            return ()
        if self._text.is_stopped:
            # The lead's characters were placed like others, so they count here.
            shown = [placed for placed in self._held if placed.offset < self._n_shown + self._text.n_lead]
        else:
            shown = self._held
        self._held = []
        return tuple(shown)
