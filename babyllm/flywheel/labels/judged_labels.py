"""Labels that a judge or classifiers give, in place of those of rules.

A judge's reply counts only if its last lines have all labels with possible values. A record without such a reply keeps
the labels of the rules, and its quality stays unknown, so nothing in a record can give itself a good label.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pkgutil import get_data
from typing import TYPE_CHECKING, Any, Literal

from babyllm.endpoint.config import Request
from babyllm.endpoint.replies import LENGTH, Reply
from babyllm.errors import UserError
from babyllm.flywheel.labels.record_labels import DIFFICULTIES, LABELS, SAFETIES, TASKS, Labels
from babyllm.judging.answer_files import asked_text
from babyllm.judging.judge_prompts import filled

if TYPE_CHECKING:
    from babyllm.reward_model import RewardModel

Ask = Callable[[Sequence[Request]], Iterator[Reply]]
Item = tuple[Sequence[Mapping[str, Any]], str]
"""The messages before an answer, and its text."""
_LINE = re.compile(
    r"^\W{0,6}(task|difficulty|quality|safety)\W{0,6}[:：=]\W{0,6}([a-z]+|[1-5](?:\.\d+)?)\b", re.M | re.I
)
_TAGS = re.compile(r"<\s*/?\s*(?:conversation|answer)\b[^<>]{0,80}>", re.IGNORECASE)  # texts must not end theirs early
_SHOWN = 4000  # characters of a question or an answer that a judge reads, half of them from its end
_VALUES = {"task": TASKS, "difficulty": DIFFICULTIES, "quality": (1, 2, 3, 4, 5), "safety": SAFETIES}
_SCHEMA = {
    "name": "labels",
    "strict": True,
    "schema": {
        "type": "object",
        "properties": {name: {"enum": list(values)} for name, values in _VALUES.items()},
        "required": list(_VALUES),
        "additionalProperties": False,
    },
}
_GOOD, _BAD = 5.0, 1.0


def judged(
    items: Sequence[Item],
    labels: Sequence[Labels],
    language: Literal["en", "zh"],
    ask: Ask,
    structured: bool = False,
) -> list[Labels]:
    """The labels of records, by a judge where its reply is clear.

    Args:
        items: records.
        labels: labels by rules.
        language: language of the prompt.
        ask: function that returns the judge's replies.
        structured: whether requests name the JSON schema of the labels.
    """
    prompt = (get_data("babyllm.flywheel.labels", f"prompts/label.{language}.txt") or b"").decode()
    options = {"response_format": {"type": "json_schema", "json_schema": _SCHEMA}} if structured else {}
    requests = [Request([{"role": "user", "content": _filled(prompt, *item)}], options=options) for item in items]
    replies = ask(requests)
    return [
        one if reply.error or reply.finish == LENGTH else _with(one, reply.text, bool(answer.strip()))
        for (_, answer), one, reply in zip(items, labels, replies, strict=True)
    ]


def _filled(prompt: str, messages: Sequence[Mapping[str, Any]], answer: str) -> str:
    said = asked_text([(str(one.get("role")), str(one.get("content") or "")) for one in messages])
    return filled(prompt, {"prompt": _cut(said), "answer": _cut(answer), "tasks": ", ".join(TASKS)}, None)


def _cut(text: str) -> str:
    half = _SHOWN // 2
    text = text if len(text) <= _SHOWN else f"{text[:half]}\n[...]\n{text[-half:]}"
    while text != (without := _TAGS.sub("", text)):  # again, for what is left may make another tag
        text = without
    return text


def _with(labels: Labels, text: str, is_answered: bool) -> Labels:
    """The labels that the last lines of a reply name, or those that were known; a question alone has no quality."""
    said = _lines(text.rpartition("</think>")[2].strip())
    found = {name.lower(): value.lower() for name, value in _LINE.findall("\n".join(said[-6:]))}
    right = (
        found.get("task") in TASKS
        and found.get("difficulty") in DIFFICULTIES
        and found.get("safety") in SAFETIES
        and found.get("quality", "")[:1].isdigit()
    )
    if not right:
        return labels
    quality = min(5.0, float(found["quality"]))
    return replace(
        labels,
        task=found["task"],
        difficulty=found["difficulty"],
        quality=quality if is_answered else None,
        safety=found["safety"],
        by="judge",
    )


def _lines(text: str) -> list[str]:
    """The lines of a text; of a JSON object, a line for each field."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    return [f"{name}: {one}" for name, one in value.items()] if isinstance(value, dict) else text.splitlines()


def check_classifiers(classifiers: Mapping[str, str]) -> None:
    """Check for which labels there are classifiers.

    Raises:
        UserError: one of them is not a label.
    """
    for name in classifiers:
        if name not in LABELS:
            raise UserError(f"--classifiers: {name!r} is not a label; choose of {', '.join(LABELS)}")


def classified(items: Sequence[Item], labels: Sequence[Labels], classifiers: Mapping[str, RewardModel]) -> list[Labels]:
    """The labels of records, with those that classifiers find by the last question, or of quality by the answer too.

    Args:
        items: records.
        labels: labels known so far.
        classifiers: classifier of each label; a quality is a number, or good or bad.
    """
    found = list(labels)
    for name, model in classifiers.items():
        asked = [i for i, (_, answer) in enumerate(items) if name != "quality" or answer.strip()]
        texts: list[str | tuple[str, str]] = [_text(items[i], name) for i in asked]
        for i, shares in zip(asked, model.label_probabilities(texts), strict=True):
            best = max(shares, key=lambda label: shares[label])
            value: Any = _quality(best) if name == "quality" else best
            found[i] = replace(found[i], **{name: value}, by="classifier")
    return found


def _text(item: Item, name: str) -> str:
    messages, answer = item
    asked = next((str(one.get("content")) for one in reversed(messages) if one.get("role") == "user"), "")
    return f"{asked}\n{answer}" if name in ("quality", "safety") else asked


def _quality(label: str) -> float | None:
    if re.fullmatch(r"\d+(?:\.\d+)?", label):
        return min(5.0, float(label))
    return {"good": _GOOD, "bad": _BAD, "好": _GOOD, "差": _BAD}.get(label.lower())
