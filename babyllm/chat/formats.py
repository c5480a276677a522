"""Conversion of records to conversations: JSON objects and table rows in the usual formats.

    record -> the fields that settings name, or else its shape -> messages, task -> Conversation
                                                               -> Unusable(reason)

Each record's own fields decide, so a file may mix formats. Contents are kept unchanged, blanks included.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from babyllm.chat.messages import ASSISTANT, SYSTEM, TOOL, USER, Conversation, Message, Unusable
from babyllm.chat.records.advice import Unrecognised
from babyllm.chat.records.fields import (
    MORE_FIELDS,
    RecordFields,
    content_of,
    is_masked,
    reasoning_of,
    refuse_media,
    tools_of,
)
from babyllm.chat.records.shapes import (
    DETAILS,
    FORUM,
    MORE,
    PAIRS,
    TALKS,
    TEXTS,
    TITLE,
    VERDICTS,
    Shape,
    is_preference,
    named_shape,
    parts_of,
    refuse_others,
    shape_of,
    unrecognised,
)
from babyllm.chat.records.spoken import ANY_SPEAKERS, SPEAKERS, Speakers, Talk
from babyllm.chat.records.transcripts import asked_in
from babyllm.errors import UserError

FormatName = Literal["auto", "alpaca", "sharegpt", "messages", "firefly", "prompt", "text"]

SYSTEMS = ("system", "system_prompt", "system_message", "meta_instruction")
REFERENCE = "reference"  # the text that a dialogue is about, which becomes its system message
TASK_FIELDS = ("task", "task_type", "category", "kind", "department", "type")
_SYSTEMS, _TASKS = frozenset((*SYSTEMS, REFERENCE)), frozenset(TASK_FIELDS)
MAX_TASK = 64  # characters; a longer text is not the name of a task
NAMING = ("prompt", "answer", "messages", "system", "history")  # settings that name fields of a record
KNOWN = {name for kinds in PAIRS.values() for pair in kinds for side in pair for name in side} | {
    *(*TEXTS, *MORE, *SYSTEMS, *MORE_FIELDS, *TASK_FIELDS, *VERDICTS, *FORUM, *DETAILS, TITLE, REFERENCE, "history")
}


@dataclass(frozen=True)
class FormatConfig:
    """How records become conversations.

    Names of fields are matched in any case. `a.b` is field b of field a. `a+b` joins the texts of two fields by a line
    break. `a?` may be absent.

    Attributes:
        format: alpaca (instruction, input, output, and optionally history and system), sharegpt (conversations of
            from and value), messages (of role and content), firefly (kind, input, target), prompt (prompt +
            completion, question + answer and the like), text (one text with marks of its speakers, such as ChatML);
            auto decides by the fields of each record.
        prompt: field of the question, or several joined by +, such as title+ask; null tries the usual names.
        answer: field of the answer; null tries the usual names.
        messages: field of a list of messages, or of a text with marks of its speakers; null tries the usual names.
        role: field of a message that names its speaker; null tries the usual names.
        content: field of a message that holds its text; null tries the usual names.
        system: field of the system message; null takes system, system_prompt and the like.
        history: field of earlier exchanges; null takes history.
        task_field: field that names the task of a conversation; null takes the first of task, task_type, category,
            kind, department and type. A record without any of them has the name of its file as its task.
        roles: role of each speaker's name in the data, such as {"client": "user"}; human, gpt and the like are
            known, and any other name is kept as a role.
        allow_special: special tokens that a content may hold, such as ["<think>"]; any other is plain text there.
    """

    format: FormatName = "auto"
    prompt: str | None = None
    answer: str | None = None
    messages: str | None = None
    role: str | None = None
    content: str | None = None
    system: str | None = None
    history: str | None = None
    task_field: str | None = None
    roles: dict[str, str] = field(default_factory=dict)
    allow_special: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Check that the named fields and the format do not contradict each other.

        Raises:
            UserError: settings name both a list and a pair, or fields that their format does not have.
        """
        pair = self.prompt or self.answer
        if pair and self.messages:
            raise UserError("format.messages: names a list, which holds questions and answers; leave out the others")
        if (pair and self.format not in ("auto", "prompt")) or (self.messages and self.format not in ("auto", *TALKS)):
            raise UserError(f"format.format={self.format}: says which fields there are; leave it out, or their names")

    @property
    def speakers(self) -> Speakers:
        """The names of fields that may hold a message's role and content, in the order in which they are tried."""
        found = SPEAKERS.get(self.format, ANY_SPEAKERS)
        if self.role is None and self.content is None:
            return found
        roles, contents = ([name.lower()] if name else None for name in (self.role, self.content))
        return tuple(
            dict.fromkeys((r, c) for role, content in found for r in roles or [role] for c in contents or [content])
        )


@dataclass(frozen=True)
class PreferenceFormat(FormatConfig):
    """How records become preferences.

    Attributes:
        chosen: field of the better answer, or of a conversation that ends with it; null takes chosen, response_chosen,
            chosen_response and the like.
        rejected: field of the worse answer; null takes the usual names.
    """

    chosen: str | None = None
    rejected: str | None = None


def to_conversation(record: Mapping[str, Any], config: FormatConfig, *, task: str, id: str) -> Conversation:
    """The conversation of a record.

    Args:
        record: the fields of a JSON object or a row of a table; null counts as absent.
        config: the format, or the names of the fields.
        task: the task of a record that does not name its own.
        id: the id of the conversation.

    Raises:
        Unusable: the record is not a conversation that can be trained on.
    """
    fields = RecordFields(record)
    shape = _shape(fields, config)
    messages, left = _messages(fields, shape, config)
    _check(messages)
    task = task_of(fields, config) or task
    return Conversation(tuple(messages), task, id, (*fields.left(), *left))


def to_question(record: Mapping[str, Any], config: FormatConfig) -> tuple[list[Message], str | None]:
    """The messages of a record before its last answer, and that answer; None if the record ends with a question.

    An answer may be missing or blank. If messages come after the last answer, they belong to the question. A field
    `reference` is taken for a right answer, which is not shown, unless the settings name it.

    Raises:
        Unusable: the record asks for nothing.
    """
    fields = RecordFields({name: value for name, value in record.items() if name != REFERENCE or name == config.system})
    messages, _ = _messages(fields, _asking_shape(fields, config), config)
    answer = messages.pop().content if messages and messages[-1].role == ASSISTANT else ""
    if all(message.role == SYSTEM for message in messages):
        raise Unusable("nothing before the answer")
    if not answer.strip() and any(message.role == USER for message in messages):
        _check([*messages, Message(ASSISTANT, "the answer to come")])
        return messages, None
    _check([*messages, Message(ASSISTANT, answer)] if answer.strip() else messages)
    return messages, answer


def _asking_shape(fields: RecordFields, config: FormatConfig) -> Shape:
    """The shape of a record whose answer may be missing."""
    try:
        shape = _shape(fields, config)
    except Unrecognised:
        if (found := _shape_without_answer(fields, config)) is None:
            raise
        shape = found
    return shape._replace(answer=f"{shape.answer.removesuffix('?')}?") if shape.answer else shape


def _shape_without_answer(fields: RecordFields, config: FormatConfig) -> Shape | None:
    for name in ("answer", "target", "答案"):  # one of them goes with each usual name of a question
        if fields.get(name) is None:
            with suppress(Unusable):
                return _shape(RecordFields({**fields.values, name: ""}), config)
    return None


def _messages(fields: RecordFields, shape: Shape, config: FormatConfig) -> tuple[list[Message], Iterable[str]]:
    """The messages of a record, and the names of fields of messages that were not used."""
    refuse_media(fields)
    talk = Talk(config.roles, config.speakers)
    if shape.answer:
        messages = list(_asked(fields, shape, config, talk))
    else:
        (name,) = shape.fields
        messages = list(talk.messages(_value(fields, name, "messages"), name))
    messages = _with_system(messages, fields, config, shape)
    if is_masked(fields):
        messages = [replace(message, weight=message.weight or 0) for message in messages]
    return messages, talk.left


def columns_of(names: Sequence[str], config: FormatConfig) -> list[str]:
    """The columns of a table that its conversations are made from, in the table's order.

    Raises:
        Unusable: the columns cannot hold a conversation.
    """
    fields = RecordFields(dict.fromkeys(names, "x"))
    named = {setting: getattr(config, setting) for setting in NAMING if getattr(config, setting)}
    for setting, spec in named.items():
        for part in parts_of(spec, fields):
            if part.partition(".")[0] not in fields.values and not part.endswith("?"):
                raise _absent(fields, part, setting)
    holds_talk = config.format in ("auto", "text", *TALKS) and any(name in fields.values for name in TEXTS)
    if not config.messages and not (holds_talk and not (config.prompt or config.answer)):
        _shape(fields, config)
    wanted = {part.rstrip("?") for spec in named.values() for part in parts_of(spec, fields)} | KNOWN
    wanted |= {config.task_field.lower()} if config.task_field else set()
    wanted |= {name.partition(".")[0] for name in wanted}
    return [name for name in names if (low := name.strip().lower()) in wanted or is_preference(low)]


def _shape(fields: RecordFields, config: FormatConfig) -> Shape:
    if config.messages:
        return Shape("messages", (config.messages.strip().lower(),))
    if config.prompt or config.answer:
        return named_shape(fields, config.prompt, config.answer)
    if config.format == "auto":
        refuse_others(fields)
    return shape_of(fields, config.format)


def _value(fields: RecordFields, name: str, setting: str) -> Any:
    """The value of a field; None if the field is absent and its name ends with a question mark."""
    try:
        return fields.lookup(name.removesuffix("?"))
    except KeyError:
        if name.endswith("?"):
            return None
        raise _absent(fields, name, setting) from None


def _absent(fields: RecordFields, name: str, setting: str) -> Unrecognised:
    hint = f"there is no {name}, which format.{setting} names"
    return unrecognised(fields, hint, only="" if setting == "messages" else setting)


# ---- messages


def _asked(fields: RecordFields, shape: Shape, config: FormatConfig, talk: Talk) -> Iterator[Message]:
    """The messages of a record with a question and an answer in fields of their own."""
    history = (config.history or "history").strip().lower()
    if earlier := fields.lookup(history, None):
        yield from talk.history(earlier, history)
    values = {name: _value(fields, name, "prompt") for name in shape.fields}
    yield from _said(list(values.values()), talk) or _question(fields, shape, values, talk)
    answer = _value(fields, shape.answer, "answer")
    if answer is None:
        return
    if several := _said([answer], talk):
        yield from several
        return
    if isinstance(answer, list) and len(answer) > 1 and all(isinstance(text, str) for text in answer):
        name = fields.spelled(shape.answer)
        raise Unrecognised(f"the field {name} holds {len(answer)} answers", {"answer": f"{name}.0"})
    yield Message(ASSISTANT, content_of(answer, shape.answer), reasoning=reasoning_of(fields))


def _said(values: Sequence[Any], talk: Talk) -> list[Message]:
    """The messages of a question or an answer that is a list of messages; empty for anything else."""
    (value,) = values if len(values) == 1 else (None,)
    if isinstance(value, list) and value and all(isinstance(item, dict) and "type" not in item for item in value):
        return list(talk.messages(value, "messages"))
    return []


def _question(fields: RecordFields, shape: Shape, values: Mapping[str, Any], talk: Talk) -> list[Message]:
    """The messages of the question; its text may hold earlier exchanges too."""
    texts = [_lines(value, name) for name, value in values.items() if value is not None]
    if not texts:
        raise Unusable("an empty question")
    if shape.fields[0] == TITLE and len(texts) > 1 and texts[1].lstrip().startswith(texts[0].strip()):
        texts = texts[1:]
    text = texts[0] if len(texts) == 1 else "\n".join(part for part in texts if part.strip())
    taken = (*shape.fields, shape.answer)
    more = fields.filled(*[name for name in shape.more if name not in taken])
    whole = Message(USER, text).with_input(_lines(fields.take(more), more) if more else "")
    if not whole.content.strip():
        raise Unusable("an empty question")
    found = asked_in(whole.content, shape.fields[-1])
    return [whole] if found is None else [talk.named(message) for message in found]


def _lines(value: Any, name: str) -> str:
    """The text of a value; a list of sentences becomes lines."""
    if isinstance(value, list) and all(isinstance(text, str) for text in value):
        return "\n".join(value)
    return content_of(value, name)


def _with_system(messages: list[Message], fields: RecordFields, config: FormatConfig, shape: Shape) -> list[Message]:
    """The messages with a system message from the record before them, which also holds the tools on offer."""
    has_own = bool(messages) and messages[0].role == SYSTEM
    system = ""
    if not has_own and config.system:
        system = content_of(fields.lookup(config.system, "") or "", config.system)
    elif not has_own and fields.has_any(_SYSTEMS):
        name = fields.filled(*SYSTEMS, *(() if shape.answer or config.messages else (REFERENCE,)))
        system = content_of(fields.take(name), "system") if name else ""
    offered = [message.tools for message in messages if message.tools]
    tools = tools_of(fields) or (offered[0] if offered else "")
    if offered:
        messages = [replace(message, tools="") if message.tools else message for message in messages]
    if has_own:
        return [replace(messages[0], tools=tools), *messages[1:]]
    return [Message(SYSTEM, system, tools=tools), *messages] if system.strip() or tools else messages


def _check(messages: Sequence[Message]) -> None:
    if not messages:
        raise Unusable("an empty conversation")
    has_answer = False
    for message in messages:
        calls = "".join(call.name + call.arguments + call.id for call in message.tool_calls)
        _require_characters(message.role + message.content + message.reasoning + message.tools + calls)
        if message.role == ASSISTANT and not message.content.strip():
            raise Unusable("an empty answer")
        if message.role == TOOL and not has_answer:
            raise Unusable("a tool's result before any message of the assistant")
        has_answer |= message.role == ASSISTANT
    if not has_answer and not any(message.weight and message.content.strip() for message in messages):
        strangers = list(dict.fromkeys(m.role for m in messages if m.role not in (SYSTEM, USER, ASSISTANT, TOOL)))
        if len(strangers) != 2:
            raise Unusable("no message of the assistant")
        roles = json.dumps(dict(zip(strangers, (USER, ASSISTANT), strict=True)), ensure_ascii=False)
        raise Unrecognised(f"no message of the assistant, but of {' and '.join(strangers)}", {"roles": roles})


def _require_characters(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise Unusable("a lone surrogate, so it is not valid Unicode") from None


def task_of(fields: RecordFields, config: FormatConfig) -> str:
    """The task that a record names; empty if it does not name one."""
    task = ""
    if config.task_field is not None:
        value = fields.lookup(config.task_field, None)
        task = str(value) if isinstance(value, (str, int)) else ""
    elif fields.has_any(_TASKS):
        named = ((name, value) for name in TASK_FIELDS if isinstance(value := fields.get(name), str))
        short = ((name, value) for name, value in named if value.strip() and len(value) <= MAX_TASK)
        name, task = next(((name, value) for name, value in short if "\n" not in value), ("", ""))
        if name:
            fields.take(name)
    _require_characters(task)
    return task.strip()
