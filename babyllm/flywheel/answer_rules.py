"""Rules against answers and questions: what is not worth training on, whatever people say of it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from babyllm.config.values import Count
from babyllm.text.clean.filters.repetition import Repetition

EMPTY, CUT, LEFT, REPEATED, REFUSAL = "empty", "cut at the length limit", "the client left", "repeats itself", "refusal"
SHORT, LONG, ECHO, MARKUP, BROKEN = (
    "too short",
    "too long",
    "repeats the question",
    "markup of a template",
    "broken text",
)
NO_QUESTION, LONG_QUESTION = "no question", "too long a question"
_REFUSAL = re.compile(
    r"(?:抱歉|对不起|很遗憾|不好意思|sorry|apologi[sz]e|unfortunately)[^。.!！\n]{0,24}(?:无法|不能|不便|没有办法|can(?:no|['’])t|unable)"
    r"|作为(?:一个|一名)?(?:AI|人工智能|语言模型|大模型|助手)[^。\n]{0,24}(?:无法|不能|没有)"
    r"|我(?:无法|不能|没有能力|没办法)(?:回答|提供|协助|帮助|满足|完成|处理|访问|讨论)"
    r"|as an? (?:AI|language model|assistant)[^.\n]{0,40}(?:can(?:no|['’])t|unable|do(?:n['’]t| not))"
    r"|I(?:['’]m| am) (?:not able|unable) to|I can(?:no|['’])t (?:help|assist|provide|answer|comply|do that)",
    re.IGNORECASE,
)
_MARKUP = re.compile(
    r"<\|[a-z_]{2,24}\|>|\[/?INST\]|<<SYS>>|</?s>|^### ?(?:Instruction|Response|Human|Assistant):", re.M
)
_TAIL = re.compile(r"(.{1,60}?)\1{3,}\W{0,3}\Z", re.DOTALL)
_TAIL_CHARACTERS, _LEAST_LOOP = 600, 12
_BEGINNING = 120  # characters in which a refusal begins


@dataclass(frozen=True)
class AnswerRules:
    """What answers and questions have to be like; lengths are in characters.

    Attributes:
        min_answer: fewest characters of an answer.
        max_answer: most characters of an answer.
        max_question: most characters of a question.
        refusals: whether answers that refuse are bad ones.
    """

    min_answer: Count = 1
    max_answer: Count = 20_000
    max_question: Count = 20_000
    refusals: bool = True

    def against_question(self, messages: Sequence[Mapping[str, Any]]) -> str | None:
        """Why the messages before an answer are not used, or None."""
        asked = [str(one.get("content") or "") for one in messages if one.get("role") == "user"]
        if not asked or not any(c.isalnum() for c in asked[-1]):
            return NO_QUESTION
        return LONG_QUESTION if len(asked[-1]) > self.max_question else None

    def against_answer(
        self, messages: Sequence[Mapping[str, Any]], answer: Mapping[str, Any], finish: str | None
    ) -> str | None:
        """Why an answer is not a good one, or None.

        Args:
            messages: messages before the answer.
            answer: message of the answer.
            finish: how it ended; None if the client left.
        """
        text = str(answer.get("content") or "").strip()
        if not any(c.isalnum() for c in text):
            return None if answer.get("tool_calls") else EMPTY
        if finish in (None, "length"):
            return CUT if finish else LEFT
        if len(text) < self.min_answer or len(text) > self.max_answer:
            return SHORT if len(text) < self.min_answer else LONG
        if _MARKUP.search(text):
            return MARKUP
        if text.count("\ufffd") > len(text) / 100:
            return BROKEN
        if messages and text == str(messages[-1].get("content") or "").strip():
            return ECHO
        if is_repeated(text):
            return REPEATED
        return REFUSAL if self.refusals and is_refusal(text) else None


def is_refusal(text: str) -> bool:
    """Whether an answer begins by refusing to answer."""
    found = _REFUSAL.search(text[: 2 * _BEGINNING])
    return found is not None and found.start() < _BEGINNING


def is_repeated(text: str) -> bool:
    """Whether a text repeats itself, or ends by saying the same at least four times."""
    tail = _TAIL.search(text[-_TAIL_CHARACTERS:])
    is_loop = tail is not None and len(tail[0]) >= _LEAST_LOOP and any(c.isalnum() for c in tail[1])
    return is_loop or Repetition().judge([text])[0] is not None
