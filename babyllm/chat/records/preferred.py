"""The fields of preferences: the better and the worse answer, their scores, and verdicts on single answers.

fields -> sides_of -> Sides(chosen, rejected), or best_and_worst of answers with scores -> margin_of, difficulty_of
       -> verdict_of -> whether a single answer is a good one
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from babyllm.chat.messages import ASSISTANT, Message, Unusable
from babyllm.chat.records.fields import RecordFields, content_of
from babyllm.chat.records.shapes import VERDICTS, is_preference
from babyllm.chat.records.spoken import Talk, is_talk
from babyllm.chat.records.transcripts import spoken_in
from babyllm.config.json_fields import kind_of

NAMES = ("answer", "response", "completion", "output", "reply", "content", "message", "messages", "text")
SCORES = ("score", "rating", "reward", "overall_score")
COMPLETIONS, RATING, MARGIN, DIFFICULTY = "completions", "rating", "margin", "difficulty"
WORDS = {"easy": 0.0, "medium": 0.5, "hard": 1.0}
_TRUE, _FALSE = (True, "true", "True", 1, "1"), (False, "false", "False", 0, "0")


class Sides(NamedTuple):
    """The names of the fields that hold two answers.

    Attributes:
        chosen: field of the better answer.
        rejected: field of the worse answer.
    """

    chosen: str
    rejected: str


def sides_of(fields: RecordFields, chosen: str | None = None, rejected: str | None = None) -> Sides | None:
    """The fields of the two answers of a record; None if it has neither.

    Args:
        fields: the fields of the record.
        chosen: the name of the field of the better answer; None takes the usual names.
        rejected: the same of the worse answer.

    Raises:
        Unusable: only one of the two is there, or a field that is named is absent.
    """
    names = [named or _side_in(fields, side) for named, side in ((chosen, "chosen"), (rejected, "rejected"))]
    is_other = not (chosen or rejected) and not all(names) and fields.has_any({COMPLETIONS, *VERDICTS})
    if not any(names) or is_other:
        return None
    for name, side in zip(names, ("chosen", "rejected"), strict=True):
        if not name or fields.lookup(name, None) is None:
            raise Unusable(f"no {side} answer: there is no field {name or side}; name it with format.{side}")
    return Sides(*names)


def _side_in(fields: RecordFields, side: str) -> str:
    """The name of the field of an answer, by the usual names; empty if there is none."""
    usual = (side, *(name for kind in NAMES for name in (f"{kind}_{side}", f"{side}_{kind}")))
    return next((name for name in usual if fields.get(name) is not None), "")


def without_preference(fields: RecordFields) -> dict[str, Any]:
    """The fields that say nothing about which answer is better."""
    taken = {COMPLETIONS, RATING, MARGIN, DIFFICULTY, *VERDICTS}
    return {name: value for name, value in fields.values.items() if name not in taken and not is_preference(name)}


def said_in(value: Any, name: str, talk: Talk) -> list[Message]:
    """The messages of one of two answers: its text, its message, or a conversation that ends with it.

    Raises:
        Unusable: the value is neither text nor messages.
    """
    if isinstance(value, str):
        return [talk.named(message) for message in spoken_in(value, name) or [Message(ASSISTANT, value)]]
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list) or not value:
        raise Unusable(f"the field {name} is neither a text nor messages but {kind_of(value)}")
    if len(value) == 1 and isinstance(value[0], str):
        return [Message(ASSISTANT, value[0])]
    return list(talk.messages(value, name))


def unpacked(value: Any) -> Any:
    """The messages that a table holds as JSON text, or the value itself."""
    if not isinstance(value, str) or not value.lstrip().startswith(("[", "{")):
        return value
    try:
        found = json.loads(value)
    except (ValueError, RecursionError):
        return value
    return found if is_talk([found] if isinstance(found, dict) else found) else value


class Scored(NamedTuple):
    """The best and the worst of several answers.

    Attributes:
        best: text of the answer with the highest score.
        worst: text of the answer with the lowest score.
        margin: difference of their scores, above 0.
    """

    best: str
    worst: str
    margin: float


def best_and_worst(value: Any) -> Scored:
    """The best and the worst of a list of answers with scores, as UltraFeedback has them; the first ones if tied.

    Raises:
        Unusable: there are fewer than two answers with scores, or all have the same score.
    """
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise Unusable(f"the field {COMPLETIONS} is not a list but {kind_of(value)}")
    found: list[tuple[float, str]] = []
    for item in value:
        fields = RecordFields(item if isinstance(item, dict) else {})
        name = next((name for name in NAMES if fields.get(name) is not None), "")
        score = next((s for s in (number_in(fields, n) for n in ("overall_score", *SCORES)) if s is not None), None)
        if name and score is not None:
            found.append((score, content_of(fields.get(name), name)))
    if len(found) < 2:
        raise Unusable(f"fewer than two of its {COMPLETIONS} have a text and a score")
    best, worst = max(found, key=lambda one: one[0]), min(found, key=lambda one: one[0])
    if best[0] == worst[0]:
        raise Unusable(f"all of its {COMPLETIONS} have the same score")
    return Scored(best[1], worst[1], best[0] - worst[0])


def margin_of(fields: RecordFields) -> float | None:
    """How much better the chosen answer is: the field `margin`, or the difference of two scores; None without them.

    Raises:
        Unusable: a margin or a score is not a finite number.
    """
    if (margin := number_in(fields, MARGIN)) is not None:
        return margin
    for score in SCORES:
        for names in ("{score}_{side}", "{side}_{score}", "{side}-{score}"):
            sides = (number_in(fields, names.format(score=score, side=side)) for side in ("chosen", "rejected"))
            chosen, rejected = sides
            if chosen is not None and rejected is not None:
                return chosen - rejected
    return None


def difficulty_of(fields: RecordFields) -> float | None:
    """The field `difficulty`: a number, or easy (0), medium (0.5) or hard (1); None without it or for other words.

    Raises:
        Unusable: it is a number, but not a finite one.
    """
    value = fields.get(DIFFICULTY)
    if isinstance(value, str) and value.strip().lower() in WORDS:
        return WORDS[value.strip().lower()]
    return None if isinstance(value, str) and not _is_number(value) else number_in(fields, DIFFICULTY)


def number_in(fields: RecordFields, name: str) -> float | None:
    """A number, which may be spelled as a text; None if the field is absent or blank.

    Raises:
        Unusable: the value is not a finite number.
    """
    value = fields.get(name)
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    number = float(value) if isinstance(value, (int, float)) or (isinstance(value, str) and _is_number(value)) else None
    if number is None or isinstance(value, bool) or not math.isfinite(number):
        raise Unusable(f"the field {name} is not a finite number")
    return number


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def verdict_of(fields: RecordFields) -> bool | None:
    """Whether a single answer is a good one: `label`, `kto_tag` or a `rating` of 1 or -1; None without a verdict.

    Raises:
        Unusable: verdicts contradict each other.
    """
    values = [fields.get(name) for name in VERDICTS]
    found = {value in _TRUE for value in values if value in _TRUE or value in _FALSE}
    if (rating := fields.get(RATING)) in (1, -1, "1", "-1"):
        found.add(int(rating) > 0)
    if len(found) > 1:
        raise Unusable(f"its {' and '.join((*VERDICTS, RATING))} contradict each other")
    return found.pop() if found else None
