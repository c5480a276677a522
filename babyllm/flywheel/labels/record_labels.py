"""The labels of a question and its answer, and those that rules find."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

TASKS = (
    *("code", "maths", "translation", "summary", "classification", "extraction", "rewriting", "writing"),
    *("explanation", "question", "chat", "other"),
)
DIFFICULTIES, SAFETIES = ("easy", "medium", "hard"), ("safe", "unsafe")
LABELS = ("task", "difficulty", "quality", "language", "safety")
_HAN, _LATIN = re.compile(r"[\u3400-\u9fff]"), re.compile(r"[A-Za-z]+")
_TASKS = {
    "code": r"```|代码|编程|函数|报错|\bSQL\b|python|java\b|javascript|c\+\+|\bbug\b|\bregex|code\b|compile",
    "translation": r"翻译|译成|译为|translate|translation|用英[语文](?:怎么|说)|in (?:Chinese|English)\b",
    "summary": r"总结|概括|摘要|归纳|summari[sz]e|summary|tl;?dr|in one sentence",
    "classification": r"(?:属于|是)(?:哪|什么)(?:一?[种类个])|还是|分类|情感|判断|classif|sentiment|which category",
    "extraction": r"提取|抽取|找出.{0,12}(?:中|里)的|列出文中|extract|list all .{1,40} (?:in|from)|named entit",
    "rewriting": r"改写|润色|重写|扩写|缩写|续写|rewrite|rephrase|paraphrase|polish|proofread|correct the grammar",
    "writing": r"写(?:一|个|篇|首|封|段|条)|作文|作诗|起草|编一个|write (?:a|an|me|the)\b|compose|draft a|poem",
    "maths": r"计算|方程|几何|概率|求解|等于多少|\d\s*[-+*/×÷=]\s*\d|calculate|solve|equation|how many|percent",
    "explanation": r"解释|为什么|什么是|是什么意思|原理|介绍|explain|why\b|what (?:is|are|does)|how does|describe",
    "question": r"[?？]|谁|哪里|多少|怎么|如何|几[个点月]|\b(?:who|when|where|which|how)\b",
    "chat": r"^(?:你好|您好|嗨|早上好|晚安|谢谢|hi|hello|hey|thanks|good (?:morning|night))",
}
_PATTERNS = {name: re.compile(pattern, re.IGNORECASE) for name, pattern in _TASKS.items()}
_UNSAFE = re.compile(
    r"(?:制作|制造|自制|合成)(?:炸弹|炸药|毒药|毒品|冰毒|枪支)|(?:自杀|自残)(?:的)?(?:方法|方式)|怎么(?:杀人|下毒)|儿童色情"
    r"|(?:make|build|synthesi[sz]e) (?:a |an )?(?:bomb|explosive|nerve agent|meth\b|ghost gun)|how to (?:kill myself"
    r"|(?:kill|poison) someone)|ways to (?:commit suicide|self[- ]harm)|child porn",
    re.IGNORECASE,
)
_LOOKED_AT = 4000
_EASY, _HARD = 120, 1200  # characters of a question and its answer together


@dataclass(frozen=True)
class Labels:
    """What a question and its answer are.

    Attributes:
        task: kind of the question (`TASKS`), or a label of a classifier.
        difficulty: easy, medium or hard.
        quality: how good the answer is, from 1 to 5; None if nobody says.
        language: zh, en or other: the language of the question.
        safety: safe or unsafe.
        by: who gave them: rules, judge, classifier; the last one that gave any.
    """

    task: str
    difficulty: str
    quality: float | None
    language: str
    safety: str
    by: str = "rules"

    def to_json(self) -> dict[str, Any]:
        """The labels as a JSON value."""
        return asdict(self)


def labels_by_rules(messages: Sequence[Mapping[str, Any]], answer: str) -> Labels:
    """The labels that words and lengths show; rules say nothing of quality.

    Args:
        messages: messages before the answer, one of them of a user.
        answer: text of the answer.
    """
    asked = [str(one.get("content") or "") for one in messages if one.get("role") == "user"]
    question = asked[-1][:_LOOKED_AT] if asked else ""
    task = next((name for name, pattern in _PATTERNS.items() if pattern.search(question)), "other")
    n = sum(map(len, asked[-1:])) + len(answer)
    is_hard = n > _HARD or (task in ("code", "maths") and n > _HARD / 3) or len(asked) > 4
    difficulty = "hard" if is_hard else "easy" if n < _EASY and len(asked) < 3 else "medium"
    safety = "unsafe" if _UNSAFE.search(question) else "safe"
    return Labels(task, difficulty, None, language_of(question), safety)


def language_of(text: str) -> str:
    """Zh for a text with a fair share of Chinese characters, en for one of Latin words, else other."""
    n_han, n_words = len(_HAN.findall(text)), len(_LATIN.findall(text))
    if n_han and n_han >= n_words:
        return "zh"
    return "en" if n_words else "other"
