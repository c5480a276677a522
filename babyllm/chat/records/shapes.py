"""The shape of a record: which fields hold the question and the answer, or a list of messages, by their names.

    fields -> shape_of -> Shape(format, question, answer); Unrecognised with the settings that would name the fields

If several fields could be the answer, none is chosen silently. The record is rejected with the names of the candidates.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from babyllm.chat.messages import Unusable
from babyllm.chat.records.advice import Unrecognised, settings_for
from babyllm.chat.records.fields import RecordFields
from babyllm.chat.records.spoken import is_talk
from babyllm.chat.records.transcripts import spoken_in
from babyllm.config.json_fields import kind_of

LISTS = ("messages", "conversations", "conversation")  # must hold messages
MAYBE_LISTS = ("chat", "dialogue", "dialog", "data", "turns")  # hold messages if they look like it
TEXTS = ("text", "plain_text", *MAYBE_LISTS, *LISTS)  # may hold a conversation as one text, with marks of speakers
_LIKE_LISTS = frozenset((*LISTS, *MAYBE_LISTS))
TALKS = ("messages", "sharegpt")
TITLE, DETAILS = "title", ("ask", "desc")
# Fields that only answers in a forum have. They show that title and content are a question and its answer.
FORUM = ("qid", "answer_id", "answerer_tags")
# By format: the fields that hold a question, and those that hold an answer, in the order tried.
PAIRS: dict[str, tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]] = {
    "alpaca": ((("instruction",), ("output", "response", "answer", "completion")),),
    "firefly": ((("input",), ("target",)),),
    "prompt": (
        (
            *(("prompt", "instruction", "question", "query", "problem", "inputs", "input", "q"),),
            ("completion", "response", "output", "answer", "solution", "targets", "target", "reply", "a"),
        ),
        (("问", "问题", "提问"), ("答", "答案", "回答", "回复")),
        (("ask",), ("answer", "reply", "response")),
        (("article", "document", "content", "dialogue", "text"), ("summary", "highlights")),
    ),
}
MORE = ("input", "context")  # the text that a question is about
WOULD_DO = {
    "auto": "messages, conversations, instruction + output, input + target, prompt + completion or question + answer",
    "messages": "messages or conversations",
    "sharegpt": "messages or conversations",
    "alpaca": "instruction + output or instruction + response",
    "firefly": "input + target",
    "prompt": "prompt + completion, question + answer, query + response or the like",
    "text": "a text with marks of its speakers, such as <|im_start|>user",
}
_PREFERENCE = re.compile(r"(?:^|_)(?:chosen|rejected)(?:_|$)")
VERDICTS = ("label", "kto_tag")  # true or false: whether the answer is a good one
_VERDICTS, _TREE = frozenset(VERDICTS), {"parent_id", "message_tree_id"}


class Shape(NamedTuple):
    """The format of a record and the fields that it uses.

    Attributes:
        format: one of messages, sharegpt, text, alpaca, firefly, prompt.
        fields: the fields of the question, whose texts are joined; a list or a text is a single field.
        answer: the field of the answer; empty for a list or a text.
        more: fields of the question's input; the first one that is not blank is added to the question.
    """

    format: str
    fields: tuple[str, ...]
    answer: str = ""
    more: tuple[str, ...] = ()


def shape_of(fields: RecordFields, format: str) -> Shape:
    """The shape of a record.

    Args:
        fields: the fields of the record.
        format: the format to try; "auto" tries all.

    Raises:
        Unusable: no shape fits, or several fields contradict each other.
    """
    if format in ("auto", *TALKS) and (name := _list_in(fields, format)):
        return Shape("messages" if format == "auto" else format, (name,))
    for tried in PAIRS if format == "auto" else [format] if format in PAIRS else []:
        if shape := _pair_in(fields, tried):
            return shape
    if format in ("auto", "text") and (name := _text_in(fields)):
        return Shape("text", (name,))
    for name in LISTS if format in ("auto", *TALKS) else ():
        if (value := fields.get(name)) is not None:
            raise Unusable(f"the field {name} is not a list but {kind_of(value)}")
    raise unrecognised(fields, f"expected {WOULD_DO[format]}")


def named_shape(fields: RecordFields, prompt: str | None, answer: str | None) -> Shape:
    """The shape of a record whose question, answer or both a user has named; the one not named is looked for.

    Raises:
        Unusable: the field that is not named cannot be found, or several fields could be it.
    """
    asked = parts_of(prompt, fields) if prompt else ()
    answered = answer.strip().lower() if answer else ""
    pairs = [pair for kinds in PAIRS.values() for pair in kinds]
    taken = {*(part.removesuffix("?") for part in asked), answered}
    more: tuple[str, ...] = ()
    if not asked:
        names = [name for names, _ in pairs for name in names if name not in taken and fields.get(name) is not None]
        if names:
            question = "instruction" if "instruction" in names else _question_of(fields, list(dict.fromkeys(names)))
            asked, more = (question,), _more(question)
        elif fields.is_filled(TITLE):
            asked = (TITLE, *(name for name in DETAILS if fields.is_filled(name)))
    if not answered:
        names = [name for _, names in pairs for name in names if name not in taken and fields.get(name) is not None]
        answered = _only(fields, list(dict.fromkeys(names)), "answer") if names else ""
    if not asked or not answered:
        missing = "prompt" if not asked else "answer"
        raise unrecognised(fields, f"name the other with format.{missing}", [*taken], only=missing)
    return Shape("prompt", asked, answered, more)


def parts_of(spec: str, fields: RecordFields) -> tuple[str, ...]:
    """The fields that a setting names, in lower case; a `+` within the name of an existing field does not split it."""
    spec = spec.strip().lower()
    return (spec,) if spec in fields.values else tuple(part.strip() for part in spec.split("+"))


def unrecognised(fields: RecordFields, hint: str, taken: Collection[str] = (), only: str = "") -> Unrecognised:
    """The error for a record that is not a conversation; it lists the record's fields.

    Args:
        fields: the fields of the record.
        hint: advice, as the end of the message.
        taken: fields that a user has named, which are not suggested again.
        only: the one setting to suggest; empty suggests all.
    """
    names = [str(fields.spelled(name))[:30] for name, value in fields.values.items() if value is not None][:12]
    rest = {name: value for name, value in fields.values.items() if name not in taken}
    settings = settings_for(rest, fields.spelled, 1 if only else 2)
    if only:
        settings = {name: field for name, field in settings.items() if name == only}
    return Unrecognised(f"no conversation: it has the fields {', '.join(names) or '(none)'}; {hint}", settings)


def refuse_others(fields: RecordFields) -> None:
    """Refuse records made for other stages of training, and trees of messages, which have no single path.

    Raises:
        Unusable: the record is a preference, a verdict or part of a tree.
    """
    found = [fields.spelled(n) for n in fields.values if is_preference(n) and fields.get(n) is not None]
    if fields.has_any(_VERDICTS):
        found += [n for n in VERDICTS if isinstance(v := fields.get(n), bool) or str(v).lower() in ("true", "false")]
    if found:
        raise Unusable(
            f"made for preferences, not for conversations: it has {' and '.join(found)} besides; train on it with "
            "babyllm dpo or babyllm reward, leave the file out, or name the format that is to be taken from it"
        )
    root = fields.get("prompt")
    if (isinstance(root, dict) and "replies" in root) or fields.values.keys() >= _TREE:
        raise Unusable(
            "a tree of messages with several answers each (oasst), not a conversation: write one path of each tree "
            "into a record of its own, as messages"
        )


@lru_cache(maxsize=1 << 10)
def is_preference(name: str) -> bool:
    """Whether a field holds the chosen or the rejected one of two answers, by its name in lower case."""
    return _PREFERENCE.search(name) is not None


def _list_in(fields: RecordFields, format: str) -> str:
    """The name of the field that holds messages; a table without lists holds them as JSON text."""
    if not fields.has_any(_LIKE_LISTS):
        return ""
    for name in LISTS:
        if (value := fields.get(name)) is None:
            continue
        if isinstance(value, list) or (isinstance(value, str) and value.lstrip().startswith("[")):
            return name
    if format == "sharegpt":
        return ""
    return next((name for name in MAYBE_LISTS if name in fields.values and is_talk(fields.get(name))), "")


def _text_in(fields: RecordFields) -> str:
    for name in TEXTS:
        value = fields.get(name)
        if isinstance(value, str) and spoken_in(value, name):
            return name
    return ""


def _pair_in(fields: RecordFields, format: str) -> Shape | None:
    """The shape of a record in one format with a question and an answer; None if it does not fit."""
    for questions, answers in PAIRS[format]:
        asked = [name for name in questions if fields.get(name) is not None]
        answered = [name for name in answers if fields.get(name) is not None]
        if asked and answered:
            question = _question_of(fields, asked)
            before = (TITLE,) if question in DETAILS and fields.is_filled(TITLE) else ()
            return Shape(format, (*before, question), _only(fields, answered, "answer"), _more(question))
    return _titled(fields) if format == "prompt" and fields.is_filled(TITLE) else None


def _question_of(fields: RecordFields, names: list[str]) -> str:
    """The one of these fields that holds the question; an input next to a prompt is part of the question."""
    if len(names) == 1:
        return names[0]
    is_asked = fields.filled("prompt", "instruction") in names
    return _only(fields, [name for name in names if name != "input" or not is_asked], "prompt")


def _more(question: str) -> tuple[str, ...]:
    return MORE if question in ("prompt", "instruction") else MORE[1:]


def _titled(fields: RecordFields) -> Shape | None:
    """The shape of a question with a title and its answer, as in a forum; None without an answer."""
    answers = ("answer", "reply", *(("content",) if fields.filled(*FORUM) else ()))
    answered = [name for name in answers if fields.get(name) is not None]
    if not answered:
        return None
    details = [name for name in DETAILS if fields.is_filled(name)]
    return Shape("prompt", (TITLE, *details), _only(fields, answered, "answer"))


def _only(fields: RecordFields, names: Sequence[str], setting: str) -> str:
    """The one of these fields that is not blank; the first, if several hold the same text.

    Raises:
        Unrecognised: several hold different texts.
    """
    if len(names) == 1:
        return names[0]
    filled = [name for name in names if fields.is_filled(name)] or [names[0]]
    first: Any = fields.get(filled[0])
    if other := next((name for name in filled[1:] if fields.get(name) != first), None):
        spelled = [fields.spelled(name) for name in (filled[0], other)]
        kind = "question" if setting == "prompt" else "answer"
        raise Unrecognised(f"both {spelled[0]} and {spelled[1]} could be the {kind}", {setting: spelled[0]})
    return filled[0]
