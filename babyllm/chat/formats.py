"""Records of the formats in use as conversations: what a JSON object or a row of a table means.

    record -> the first of WAYS whose fields it has -> messages, task -> Conversation
                                                    -> Unusable(reason)

A record's own fields decide, so files may mix formats. Contents are kept as they are, blanks included.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from babyllm.chat.messages import ASSISTANT, SYSTEM, TOOL, USER, Conversation, Message, Unusable
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
EXTRA = ("input", "context", "history", "system")  # fields that add to a question
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
    if format in SPEAKERS:
        messages = [message for item in _list(record, way[0]) for message in _spoken(item, config)]
    else:
        messages = list(_asked(record, way, config))
    system = _content(record.get("system") or "", "system")
    if system.strip() and not (messages and messages[0].role == SYSTEM):
        messages.insert(0, Message(SYSTEM, system))
    _check(messages)
    return Conversation(tuple(messages), _task(record, config) or task, id)


def columns_of(names: Sequence[str], config: FormatConfig) -> list[str]:
    """The columns of a table that its conversations are made from, in the table's order.

    Raises:
        Unusable: they are those of no conversation.
    """
    _way_of({name: [] for name in names}, config)
    known = {name for ways in WAYS.values() for way in ways for name in way}
    known |= {*EXTRA, *TASK_FIELDS, *PREFERENCES, *VERDICTS, config.task_field or ""}
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


def _list(record: Mapping[str, Any], name: str) -> list[Any]:
    value = record[name]
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise Unusable(f"the field {name} is a text that is not JSON") from None
    if not isinstance(value, list):
        raise Unusable(f"the field {name} is not a list but {kind_of(value)}")
    return value


def _spoken(item: Any, config: FormatConfig) -> Iterator[Message]:
    """The message of an element of a list; two where it is an object such as {"human": ..., "assistant": ...}."""
    if not isinstance(item, dict):
        raise Unusable(f"a message is not an object but {kind_of(item)}")
    weight = _weight(item)
    for speaker, content in SPEAKERS.get(config.format, (*SPEAKERS["messages"], *SPEAKERS["sharegpt"])):
        if (name := item.get(speaker)) is not None:
            calls = _calls(item)
            if calls and not item.get(content):
                yield Message(_role(name, config), calls, weight)
                return
            text = _content(item.get(content), content)
            yield Message(_role(name, config), f"{text}\n{calls}" if calls else text, weight)
            return
    # Tables sort their fields, so the order is not the one in which they are found.
    order = (SYSTEM, USER, ASSISTANT)
    said = [(_role(name, config), text) for name, text in item.items() if isinstance(text, str)]
    said = sorted(((role, text) for role, text in said if role in order), key=lambda turn: order.index(turn[0]))
    if not said:
        raise Unusable(f"a message has no role and content but {', '.join(map(str, item)) or 'nothing'}")
    yield from (Message(role, text, weight) for role, text in said)


def _asked(record: Mapping[str, Any], way: tuple[str, ...], config: FormatConfig) -> Iterator[Message]:
    """The messages of a record with a question and an answer in fields of their own."""
    question, answer = way
    for turn in _list(record, "history") if record.get("history") else []:
        if not isinstance(turn, list) or len(turn) != 2:
            raise Unusable("the field history is not a list of [question, answer]")
        yield Message(USER, _content(turn[0], "history"))
        yield Message(ASSISTANT, _content(turn[1], "history"))
    for name, role in ((question, USER), (answer, ASSISTANT)):
        value = record[name]
        if isinstance(value, list) and value and all(isinstance(item, dict) and "type" not in item for item in value):
            yield from (message for item in value for message in _spoken(item, config))
            continue
        text = _content(value, name)
        if name == "instruction":
            more = next((record[extra] for extra in ("input", "context") if record.get(extra) is not None), "")
            more = _content(more, "input")
            text = "\n".join(part for part in (text, more) if part.strip()) if more.strip() else text
        if role == USER and not text.strip():
            raise Unusable("an empty question")
        yield Message(role, text)


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


def _calls(item: Mapping[str, Any]) -> str:
    """Calls of tools, a line of JSON with name and arguments for each; nothing where there are none."""
    calls = item.get("tool_calls") or ([item["function_call"]] if item.get("function_call") else [])
    if not isinstance(calls, list):
        raise Unusable(f"the field tool_calls is not a list but {kind_of(calls)}")
    return "\n".join(json.dumps(_call(call), ensure_ascii=False) for call in calls)


def _call(call: Any) -> dict[str, Any]:
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise Unusable("a tool call has no name")
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            raise Unusable("the arguments of a tool call are not JSON") from None
    return {"name": function["name"], "arguments": {} if arguments is None else arguments}


def _weight(item: Mapping[str, Any]) -> int | None:
    for name in ("weight", "train"):
        value = item.get(name)
        if value is None:
            continue
        if not isinstance(value, (bool, int, float)) or value not in (0, 1):
            raise Unusable(f"the {name} of a message is neither 0 nor 1")
        return int(value)
    return None


def _check(messages: Sequence[Message]) -> None:
    if not messages:
        raise Unusable("an empty conversation")
    has_answer = False
    for message in messages:
        _require_characters(message.role + message.content)
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


def _task(record: Mapping[str, Any], config: FormatConfig) -> str:
    """What a record names as its task; nothing if it names none."""
    if config.task_field is not None:
        value = record.get(config.task_field)
        task = str(value) if isinstance(value, (str, int)) else ""
    else:
        named = (value for name in TASK_FIELDS if isinstance(value := record.get(name), str))
        task = next((value for value in named if value.strip() and len(value) <= MAX_TASK and "\n" not in value), "")
    _require_characters(task)
    return task.strip()
