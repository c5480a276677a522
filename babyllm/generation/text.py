"""The text of an answer, token by token: whole characters, up to a stop string.

token id -> bytes -> characters -> held back while a stop string may begin with them -> emitted
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator, Sequence

from babyllm.tokenizer import Tokenizer


class AnswerText:
    """Turns tokens into text and emits only what can no longer change; invalid UTF-8 becomes U+FFFD.

    The text does not depend on how it is split into tokens. If several stop strings occur, the one that is complete
    first counts; if several are complete at once, the longest.

    Attributes:
        is_stopped: whether a stop string was completed; it and the text after it are not emitted.
        n_lead: number of characters left out at the beginning.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = (), lead: str = "") -> None:
        """Begin an empty answer.

        Args:
            tokenizer: tokenizer of the tokens.
            stop: strings that end the answer.
            lead: text that is left out if the answer begins with it.
        """
        self._tokenizer, self._stop, self._lead = tokenizer, tuple(stop), lead
        self._longest = max(map(len, self._stop), default=1)
        self._firsts = {text[0] for text in self._stop}
        self.n_lead = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._held = ""
        self.is_stopped = False

    def add(self, token_id: int) -> str:
        """The text that is certain after a token; empty while a character or a stop string may be incomplete."""
        return self._take(self._tokenizer.token_bytes(token_id), is_end=False)

    def end(self) -> str:
        """The text that was held back; call it when the answer ends without a stop string."""
        return self._take(b"", is_end=True)

    def _take(self, data: bytes, is_end: bool) -> str:
        if self.is_stopped:
            return ""
        text = self._held + self._decoder.decode(data, final=is_end)
        if self._lead:
            if not is_end and len(text) < len(self._lead) and self._lead.startswith(text):
                self._held = text
                return ""
            if text.startswith(self._lead):
                self.n_lead = len(self._lead)
            text, self._lead = text[self.n_lead :], ""
        found = [(at + len(stop), at) for stop in self._stop if (at := text.find(stop)) >= 0]
        if found:
            self.is_stopped, self._held = True, ""
            return text[: min(found)[1]]
        n_held = 0 if is_end else self._n_uncertain(text)
        shown, self._held = text[: len(text) - n_held], text[len(text) - n_held :]
        return shown

    def _n_uncertain(self, text: str) -> int:
        """Number of characters at the end of `text` that may be the beginning of a stop string."""
        for start in range(max(0, len(text) - self._longest + 1), len(text)):
            if text[start] in self._firsts and any(stop.startswith(text[start:]) for stop in self._stop):
                return len(text) - start
        return 0


def text_pieces(tokenizer: Tokenizer, ids: Iterable[int], stop: Sequence[str] = (), lead: str = "") -> Iterator[str]:
    """The text of token ids, streamed in pieces of whole characters; arguments as for `AnswerText`."""
    text = AnswerText(tokenizer, stop, lead)
    for token in ids:
        if piece := text.add(token):
            yield piece
        if text.is_stopped:
            return
    if rest := text.end():
        yield rest
