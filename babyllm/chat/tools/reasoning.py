"""The text of an answer divided into its reasoning and its content, while it is written.

text -> [<think> ... </think>] -> reasoning, content
"""

from __future__ import annotations

from typing import Literal, NamedTuple

OPEN, CLOSE = "<think>", "</think>"
Begin = Literal["content", "reasoning", "either"]
"""What an answer begins with; "either" is decided by whether its text begins with the mark."""


class Parts(NamedTuple):
    """What was added to an answer.

    Attributes:
        reasoning: new text of the reasoning.
        content: new text of the content.
    """

    reasoning: str = ""
    content: str = ""


class AnswerParts:
    """Divides the text of one answer.

    Reasoning has no blanks at its ends, and content no line breaks at its beginning if reasoning precedes it.
    """

    def __init__(self, begin: Begin) -> None:
        """Begin an answer."""
        self._state: Begin = begin
        self._held = ""
        self._is_blank = False  # whether blanks at the beginning of the current part are left out

    def add(self, text: str, is_end: bool) -> Parts:
        """The parts that are certain after a piece of text.

        Args:
            text: next piece of the answer.
            is_end: whether the answer ends with it.
        """
        text, self._held = self._held + text, ""
        if self._state == "either":
            start = text.lstrip()
            if not is_end and OPEN.startswith(start[: len(OPEN)]) and len(start) < len(OPEN):
                self._held = text
                return Parts()
            self._state = "reasoning" if start.startswith(OPEN) else "content"
            text = start[len(OPEN) :] if self._state == "reasoning" else text
            self._is_blank = self._state == "reasoning"
        if self._state == "content":
            return Parts("", self._from_content(text))
        reasoning, mark, rest = text.partition(CLOSE)
        if mark:
            thought = self._without_blanks(reasoning.rstrip())
            self._state, self._is_blank = "content", True
            return Parts(thought, self._from_content(rest))
        n = len(text) if is_end else len(text) - _n_uncertain(text)
        self._held = text[n:]
        return Parts(self._without_blanks(text[:n]))

    def _from_content(self, text: str) -> str:
        if self._is_blank:
            text = text.lstrip("\r\n")
            self._is_blank = not text
        return text

    def _without_blanks(self, text: str) -> str:
        if self._is_blank:
            text = text.lstrip()
            self._is_blank = not text
        return text


def _n_uncertain(text: str) -> int:
    """Number of characters at the end that may belong to the mark at the end of the reasoning or precede it."""
    n_mark = next((n for n in range(len(CLOSE) - 1, 0, -1) if text.endswith(CLOSE[:n])), 0)
    before = text[: len(text) - n_mark]
    return n_mark + len(before) - len(before.rstrip())
