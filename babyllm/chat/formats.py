"""Records of the formats in use as conversations: what a JSON object or a row of a table means.

    record -> the first of WAYS whose fields it has -> messages, task -> Conversation
                                                    -> Unusable(reason)

A record's own fields decide, so files may mix formats. Contents are kept as they are, blanks included.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from babyllm.chat.messages import ASSISTANT, SYSTEM, TOOL, USER, Conversation, Message, Unusable
from babyllm.chat.record_fields import (
    MORE_FIELDS,
    RecordFields,
    calls_of,
    is_masked,
    parsed,
    reasoning_of,
    refuse_media,
    tools_of,
    weight_of,
)
from babyllm.text.readers.records import kind_of

FormatName = Literal["auto", "alpaca", "sharegpt", "messages", "firefly", "prompt"]

_LISTS = (("messages",), ("conversations",), ("conversation",))
# By format, in the order tried: the fields of which a record must have all; the first hold questions, the last answers.
WAYS: dict[str, tuple[tuple[str, ...], ...]] = {
    "messages": _LISTS,
    "sharegpt": _LISTS,
    "alpaca": (("instruction", "output"), ("instruction", "response")),
    "firefly": (("input", "target"),),
    "prompt": (
        *(("prompt", "completion"), ("prompt", "response"), ("prompt", "output"), ("prompt", "answer")),
        *(("question", "answer"), ("question", "response"), ("query", "response"), ("query", "answer")),
        *(("input", "output"), ("input", "target"), ("inputs", "targets"), ("q", "a")),
        *(("问", "答"), ("问题", "答案"), ("问题", "回答"), ("提问", "回答")),
    ),
}
SYSTEMS = ("system", "system_prompt", "system_message")
EXTRA = ("input", "context", "history", *SYSTEMS)  # fields that add to a question
TASK_FIELDS = ("task", "task_type", "category", "kind", "type")
MAX_TASK = 64  # characters; what is longer is no name of a task
PREFERENCES = ("chosen", "rejected")
VERDICTS = ("label", "kto_tag")  # tell, by true or false, whether an answer is wanted
WOULD_DO = "messages, conversations, instruction + output, input + target, prompt + completion or question + answer"
SPEAKERS = {"messages": (("role", "content"),), "sharegpt": (("from", "value"),)}

# What others call the four roles that templates know; any other name is a role of its own.
ROLES = {
    **dict.fromkeys(("user", "human", "prompter"), USER),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bing", "bard", "bot", "model", "function_call"), ASSISTANT),
    **dict.fromkeys(("system", "developer"), SYSTEM),
    **dict.fromkeys(("tool", "function", "observation", "function_response"), TOOL),
}


@dataclass(frozen=True)
class FormatConfig:
    """How records become conversations.

    Attributes:
        format: alpaca (instruction, input, output; history and system if there), sharegpt (conversations of from and
            value), messages (of role and content), firefly (kind, input, target), prompt (prompt + completion,
            question + answer and the like); auto tells by the fields of each record.
        task_field: field that names the kind of conversation; auto, for null, takes the first there is of task,
            task_type, category, kind and type. Where there is none, the name of the file serves.
        roles: what roles of the data are meant by which names, such as {"client": "user"}; human, gpt and the like are
            known, and a role that is not keeps its name.
    """

    format: FormatName = "auto"
    task_field: str | None = None
    roles: dict[str, str] = field(default_factory=dict)


def to_conversation(record: Mapping[str, Any], config: FormatConfig, *, task: str, id: str) -> Conversation:
    """The conversation that a record stands for.

    Args:
        record: fields as JSON or a table gives them; one that is null counts as absent.
        config: names the format and the fields.
        task: of a record that names none.
        id: of the conversation.

    Raises:
        Unusable: the record is no conversation that can be trained on.
    """
    if config.format == "auto":
        _refuse_preferences(record)
    format, way = _way_of(record, config)
    fields, left = RecordFields(record), dict[str, None]()
    refuse_media(fields)
    if format in SPEAKERS:
        messages = [message for item in _list(fields, way[0]) for message in _spoken(item, config, left)]
    else:
        messages = list(_asked(fields, way, config, left))
    messages = _with_system(messages, fields)
    if is_masked(fields):
        messages = [replace(message, weight=message.weight or 0) for message in messages]
    _check(messages)
    task = _task(fields, config) or task
    return Conversation(tuple(messages), task, id, (*fields.left(), *left))


def columns_of(names: Sequence[str], config: FormatConfig) -> list[str]:
    """The columns of a table that its conversations are made from, in the table's order.

    Raises:
        Unusable: they are those of no conversation.
    """
    _way_of({name: [] for name in names}, config)
    known = {name for ways in WAYS.values() for way in ways for name in way}
    known |= {*EXTRA, *MORE_FIELDS, *TASK_FIELDS, *PREFERENCES, *VERDICTS, config.task_field or ""}
    return [name for name in names if name in known]


def _way_of(record: Mapping[str, Any], config: FormatConfig) -> tuple[str, tuple[str, ...]]:
    formats = WAYS if config.format == "auto" else {config.format: WAYS[config.format]}
    for format, ways in formats.items():
        for way in ways:
            if all(record.get(name) is not None for name in way) and (format not in SPEAKERS or _is_list(record, way)):
                return format, way
    for (name,) in _LISTS:
        if (value := record.get(name)) is not None and config.format in ("auto", *SPEAKERS):
            raise Unusable(f"the field {name} is not a list but {kind_of(value)}")
    found = ", ".join(name[:30] for name in [name for name, value in record.items() if value is not None][:12])
    wanted = " or ".join(" + ".join(way) for way in WAYS.get(config.format, ())) or WOULD_DO
    raise Unusable(f"no conversation: it has the fields {found or '(none)'}; what would do is {wanted}")


def _is_list(record: Mapping[str, Any], way: tuple[str, ...]) -> bool:
    """Whether a field holds messages; in a table, which has no lists, they are written in JSON."""
    value = record[way[0]]
    return isinstance(value, list) or (isinstance(value, str) and value.lstrip().startswith("["))


def _refuse_preferences(record: Mapping[str, Any]) -> None:
    found = [name for name in PREFERENCES if record.get(name) is not None]
    found += [n for n in VERDICTS if isinstance(v := record.get(n), bool) or str(v).lower() in ("true", "false")]
    if found:
        raise Unusable(
            f"made for preferences, not for conversations: it has {' and '.join(found)} besides; leave the file out, "
            "or name the format that is to be taken from it"
        )


# ---- messages


def _list(fields: RecordFields, name: str) -> list[Any]:
    value = parsed(fields.take(name), f"the field {name} is a text that is")
    if not isinstance(value, list):
        raise Unusable(f"the field {name} is not a list but {kind_of(value)}")
    return value


def _spoken(item: Any, config: FormatConfig, left: dict[str, None]) -> Iterator[Message]:
    """The message of an element of a list; two where it is an object such as {"human": ..., "assistant": ...}."""
    if not isinstance(item, dict):
        raise Unusable(f"a message is not an object but {kind_of(item)}")
    fields = RecordFields(item)
    refuse_media(fields)
    weight = weight_of(fields)
    for speaker, content in SPEAKERS.get(config.format, (*SPEAKERS["messages"], *SPEAKERS["sharegpt"])):
        if (name := fields.take(speaker)) is not None:
            calls, text = calls_of(fields), fields.take(content)
            text = "" if calls and not text else _content(text, content)
            said = "\n".join(part for part in (text, calls) if part)
            yield Message(_role(name, config), said, weight, reasoning_of(fields), tools_of(fields))
            left |= dict.fromkeys(f"{name} of messages" for name in fields.left())
            return
    # Tables sort their fields, so the order is not the one in which they are found.
    order = (SYSTEM, USER, ASSISTANT)
    names = [name for name, text in item.items() if isinstance(text, str) and _role(name, config) in order]
    if not names:
        raise Unusable(f"a message has no role and content but {', '.join(map(str, item)) or 'nothing'}")
    for name in sorted(names, key=lambda name: order.index(_role(name, config))):
        yield Message(_role(name, config), fields.take(name), weight)
    left |= dict.fromkeys(f"{name} of messages" for name in fields.left())


def _asked(
    fields: RecordFields, way: tuple[str, ...], config: FormatConfig, left: dict[str, None]
) -> Iterator[Message]:
    """The messages of a record with a question and an answer in fields of their own."""
    question, answer = way
    for turn in _list(fields, "history") if fields.get("history") else []:
        if not isinstance(turn, list) or len(turn) != 2:
            raise Unusable("the field history is not a list of [question, answer]")
        yield Message(USER, _content(turn[0], "history"))
        yield Message(ASSISTANT, _content(turn[1], "history"))
    for name, role in ((question, USER), (answer, ASSISTANT)):
        value = fields.take(name)
        if isinstance(value, list) and value and all(isinstance(item, dict) and "type" not in item for item in value):
            yield from (message for item in value for message in _spoken(item, config, left))
            continue
        text = _content(value, name)
        if name == "instruction":
            more = fields.take(fields.filled("input", "context"))
            more = _content("" if more is None else more, "input")
            text = "\n".join(part for part in (text, more) if part.strip()) if more.strip() else text
        if role == USER and not text.strip():
            raise Unusable("an empty question")
        yield Message(role, text, reasoning=reasoning_of(fields) if role == ASSISTANT else "")


def _with_system(messages: list[Message], fields: RecordFields) -> list[Message]:
    """The messages after what the record says to the system and which tools it offers, its own or a message's."""
    has_own = bool(messages) and messages[0].role == SYSTEM
    system = "" if has_own else _content(fields.take(fields.filled(*SYSTEMS)) or "", "system")
    tools = tools_of(fields) or next((message.tools for message in messages if message.tools), "")
    messages = [replace(message, tools="") if message.tools else message for message in messages]
    if has_own:
        return [replace(messages[0], tools=tools), *messages[1:]]
    return [Message(SYSTEM, system, tools=tools), *messages] if system.strip() or tools else messages


def _role(name: Any, config: FormatConfig) -> str:
    if not isinstance(name, str) or not name.strip():
        raise Unusable(f"a role is not a name but {kind_of(name) if not isinstance(name, str) else 'blank'}")
    return config.roles.get(name) or ROLES.get(name.strip().lower(), name)


def _content(value: Any, name: str) -> str:
    """Text, given as such or as a list of parts of the type text."""
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise Unusable("not valid UTF-8") from None
    if isinstance(value, list):
        return "".join(_part(part) for part in value)
    raise Unusable(f"the field {name} is not text but {kind_of(value)}")


def _part(part: Any) -> str:
    if isinstance(part, str):
        return part
    if isinstance(part, dict) and part.get("type", "text") == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    kind = part.get("type") if isinstance(part, dict) else None
    raise Unusable(f"a part of a content is not text but {kind if isinstance(kind, str) else kind_of(part)}")


def _check(messages: Sequence[Message]) -> None:
    if not messages:
        raise Unusable("an empty conversation")
    has_answer = False
    for message in messages:
        _require_characters(message.role + message.content + message.reasoning + message.tools)
        if message.role == ASSISTANT and not message.content.strip():
            raise Unusable("an empty answer")
        if message.role == TOOL and not has_answer:
            raise Unusable("a tool's result before any message of the assistant")
        has_answer |= message.role == ASSISTANT
    if not has_answer and not any(message.weight and message.content.strip() for message in messages):
        raise Unusable("no message of the assistant")


def _require_characters(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise Unusable("a surrogate that stands alone, which is no character") from None


def _task(fields: RecordFields, config: FormatConfig) -> str:
    """What a record names as its task; nothing if it names none."""
    task = ""
    if config.task_field is not None:
        value = fields.take(config.task_field)
        task = str(value) if isinstance(value, (str, int)) else ""
    else:
        named = ((name, value) for name in TASK_FIELDS if isinstance(value := fields.get(name), str))
        short = ((name, value) for name, value in named if value.strip() and len(value) <= MAX_TASK)
        name, task = next(((name, value) for name, value in short if "\n" not in value), ("", ""))
        fields.take(name)
    _require_characters(task)
    return task.strip()
