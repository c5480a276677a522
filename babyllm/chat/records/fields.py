"""The fields of records and messages: contents, training flags, reasoning, tools, and the fields left over.

record or message -> RecordFields -> weight_of, reasoning_of, tools_of, calls_of -> unused fields: counted by name

Names of fields are compared without regard to case: INSTRUCTION is instruction.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from contextlib import suppress
from functools import lru_cache
from typing import Any

from babyllm.chat.messages import ToolCall, Unusable
from babyllm.config.json_fields import kind_of

# Names of flags that are true for what is trained on, and of flags that are true for what is not.
LEARNED, MASKED = {"weight", "train", "training", "trainable", "loss", "learn"}, {"mask", "masked"}
FLAGS = LEARNED | MASKED
REASONING = ("reasoning_content", "reasoning", "thinking")
TOOLS, FUNCTIONS = "tools", "functions"
CALLS, CALL_ID = ("tool_calls", "function_call"), "tool_call_id"
MEDIA = {"images", "image", "audios", "audio", "videos", "video"}
MORE_FIELDS = (*FLAGS, *REASONING, TOOLS, FUNCTIONS, *MEDIA)
NAME_CHARACTERS = 40  # longest name of a field in a report
_REQUIRED = object()


class RecordFields:
    """A record or a message that remembers which of its fields were taken.

    Attributes:
        values: the values of the fields, by their names in lower case.
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.values: Mapping[str, Any] = values
        self._spelled: Mapping[str, str] = {}
        if names := _small(tuple(values)):
            self._spelled = {low: name for name, low in names.items()}
            self.values = {names[name]: value for name, value in values.items()}
        self._taken: set[str] = set()

    def has_any(self, names: AbstractSet[str]) -> bool:
        """Whether any of these fields is present; fast, since most records have none of them."""
        return not names.isdisjoint(self.values)

    def get(self, name: str) -> Any:
        """The value of a field, which does not count as taken; None if it is absent or null."""
        return self.values.get(name)

    def take(self, *names: str) -> Any:
        """The value of the first of these fields that is not null, which counts as taken; None if all are null."""
        for name in names:
            if (value := self.values.get(name)) is not None:
                self._taken.add(name)
                return value
        return None

    def is_filled(self, name: str) -> bool:
        """Whether a field holds more than blanks."""
        return self.filled(name) == name

    def filled(self, *names: str) -> str:
        """The name of the first of these fields that holds more than blanks; empty if all are blank."""
        for name in names:
            if (value := self.values.get(name)) and not (isinstance(value, str) and not value.strip()):
                return name
        return ""

    def lookup(self, name: str, default: Any = _REQUIRED) -> Any:
        """The value of a field that a user has named, such as `a.b` for field b of field a; it counts as taken.

        Args:
            name: the name of the field.
            default: the result if there is no such field.

        Raises:
            KeyError: there is no such field, and no default.
        """
        name = name if name in self.values else name.strip().lower()
        if name in self.values:
            self._taken.add(name)
            return self.values[name]
        outer, _, inner = name.partition(".")
        below = self.values.get(outer) if inner else None
        if isinstance(below, list):
            below = {str(i): value for i, value in enumerate(below)}
        if isinstance(below, dict):
            self._taken.add(outer)
            return RecordFields(below).lookup(inner, default)
        if default is _REQUIRED:
            raise KeyError(name)
        return default

    def spelled(self, name: str) -> str:
        """A field's name as the record spells it."""
        return self._spelled.get(name, name)

    def left(self) -> Iterator[str]:
        """The names of fields that are not empty and were not taken."""
        for name, value in self.values.items():
            if name not in self._taken and value is not None and not (hasattr(value, "__len__") and not len(value)):
                yield str(self.spelled(name))[:NAME_CHARACTERS]


@lru_cache(maxsize=1 << 10)  # nearly all records of a file have the same names
def _small(names: tuple[str, ...]) -> dict[str, str]:
    """Names in lower case, by their spelling in a record; empty if all are in lower case already."""
    # If names differ only by case, the one in lower case is meant. The others keep their spelling.
    small = {name: name.strip().lower() for name in names}
    known = "".join(names)
    if known == known.lower() and not any(map(str.isspace, known)):
        return {}
    return {name: name if low in small else low for name, low in small.items()}


def refuse_media(fields: RecordFields) -> None:
    """Refuse a record with media in addition to text.

    Raises:
        Unusable: it has images, audio or video.
    """
    if not fields.has_any(MEDIA):
        return
    for name in sorted(fields.values.keys() & MEDIA):
        if fields.take(name):
            raise Unusable(f"it has {name}, which a model of text cannot read")


def weight_of(fields: RecordFields) -> int | None:
    """1 if a message's own flags say that it is trained on, 0 if one says that it is not; None without flags.

    Raises:
        Unusable: a flag is neither 0 nor 1.
    """
    if not fields.has_any(FLAGS):
        return None
    weights = []
    for name in sorted(fields.values.keys() & FLAGS):
        value = fields.take(name)
        if value is None:
            continue
        if not isinstance(value, (bool, int, float)) or value not in (0, 1):
            raise Unusable(f"the {name} of a message is neither 0 nor 1")
        weights.append(int(value) if name in LEARNED else 1 - int(value))
    return min(weights, default=None)


def is_masked(fields: RecordFields) -> bool:
    """Whether a flag excludes a whole record from training; a number in a field `loss` does not count as a flag."""
    if not fields.has_any(FLAGS):
        return False
    flags = [name for name in FLAGS if isinstance(fields.get(name), bool)]
    flags += ["weight"] if type(weight := fields.get("weight")) in (int, float) and weight in (0, 1) else []
    return any([bool(fields.take(name)) == (name in MASKED) for name in flags])


def reasoning_of(fields: RecordFields) -> str:
    """The reasoning before a content; empty if there is none or it is not text."""
    name = fields.filled(*REASONING)
    return str(fields.take(name)) if name and isinstance(fields.get(name), str) else ""


def tools_of(fields: RecordFields) -> str:
    """The functions that can be called, as a JSON list; empty if there are none.

    Raises:
        Unusable: they are not valid JSON.
    """
    name = fields.filled(TOOLS, FUNCTIONS)
    if not name:
        return ""
    tools = parsed(fields.take(name), f"the field {name} is a text that is")
    if isinstance(tools, dict):
        tools = [tools]
    if not isinstance(tools, list):
        raise Unusable(f"the field {name} is not a list but {kind_of(tools)}")
    if name == FUNCTIONS:
        tools = [{"type": "function", "function": tool} if isinstance(tool, dict) else tool for tool in tools]
    return json.dumps(tools, ensure_ascii=False) if tools else ""


def calls_of(fields: RecordFields) -> tuple[ToolCall, ...]:
    """Calls of tools; empty if there are none.

    Raises:
        Unusable: a call is invalid.
    """
    name = fields.filled(*CALLS)
    if not name:
        return ()
    calls = parsed(fields.take(name), f"the field {name} is a text that is")
    if isinstance(calls, dict):
        calls = [calls]
    if not isinstance(calls, list):
        raise Unusable(f"the field {name} is not a list but {kind_of(calls)}")
    return tuple(map(_call, calls))


def call_id_of(fields: RecordFields) -> str:
    """The id of the call whose result a message is; empty if it has none."""
    return str(fields.take(CALL_ID)) if isinstance(fields.get(CALL_ID), str) else ""


def _call(call: Any) -> ToolCall:
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise Unusable("a tool call has no name")
    given, call_id = function.get("arguments"), call.get("id")
    # Tables hold arguments as JSON text.
    arguments = parsed(given, "the arguments of a tool call are")
    text = given if isinstance(given, str) else json.dumps({} if given is None else given, ensure_ascii=False)
    return ToolCall(function["name"], "{}" if arguments is None else text, call_id if isinstance(call_id, str) else "")


def call_in(content: str) -> ToolCall | None:
    """The call that a content spells, a JSON object of name and arguments alone; None for any other content."""
    if not content.lstrip().startswith("{"):
        return None
    with suppress(ValueError, RecursionError, Unusable):
        spelled = json.loads(content)
        if spelled.keys() == {"name", "arguments"}:
            return _call(spelled)
    return None


def parsed(value: Any, complaint: str) -> Any:
    """A value that a record holds either directly or, as in tables, as JSON text.

    Raises:
        Unusable: the text is not JSON; the message begins with `complaint`.
    """
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        raise Unusable(f"{complaint} not JSON") from None


def content_of(value: Any, name: str) -> str:
    """A text, held either directly or as a list of parts of the type text.

    Args:
        value: the value of the field.
        name: the name of the field, for messages.

    Raises:
        Unusable: the value is not text.
    """
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
