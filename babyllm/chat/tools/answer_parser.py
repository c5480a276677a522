"""An answer's text divided into reasoning, content and calls of functions, while it is written.

text -> AnswerParts -> reasoning | rest -> CallParser -> content | calls
"""

from __future__ import annotations

from typing import NamedTuple

from babyllm.chat.tools.call_parser import CallDelta, CallParser
from babyllm.chat.tools.reasoning import AnswerParts, Begin
from babyllm.chat.tools.tool_formats import ToolFormat


class AnswerDelta(NamedTuple):
    """What was added to an answer.

    Attributes:
        reasoning: new text of the reasoning.
        content: new text of the content.
        calls: what was added to calls.
    """

    reasoning: str = ""
    content: str = ""
    calls: tuple[CallDelta, ...] = ()


class AnswerParser:
    """Divides the text of one answer; the parts do not depend on how the text was divided into pieces."""

    def __init__(self, begin: Begin = "content", form: ToolFormat | None = None) -> None:
        """Begin an answer.

        Args:
            begin: what the answer begins with.
            form: how its model writes calls; None leaves calls in the content.
        """
        self._parts = AnswerParts(begin)
        self._calls = CallParser(form.shown) if form else None

    def add(self, text: str, is_end: bool = False) -> AnswerDelta:
        """The parts that are certain after a piece of text.

        Args:
            text: next piece of the answer.
            is_end: whether the answer ends with it.
        """
        reasoning, content = self._parts.add(text, is_end)
        if self._calls is None:
            return AnswerDelta(reasoning, content)
        content, calls = self._calls.add(content, is_end)
        return AnswerDelta(reasoning, content, tuple(calls))
