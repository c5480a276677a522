"""The fields of records and messages beside who says what: whether it is learned, thoughts, tools, and what is left.

record or message -> RecordFields -> weight_of, reasoning_of, tools_of, calls_of -> what no one took: counted by name

Names of fields are compared without regard to case: INSTRUCTION is instruction.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from functools import lru_cache
from typing import Any

from babyllm.chat.messages import Unusable
from babyllm.config.json_fields import kind_of

# Names of a flag that says whether something is trained on, and of one that says whether it is not.
LEARNED, MASKED = {"weight", "train", "training", "trainable", "loss", "learn"}, {"mask", "masked"}
FLAGS = LEARNED | MASKED
REASONING = ("reasoning_content", "reasoning", "thinking")
TOOLS, FUNCTIONS = "tools", "functions"
CALLS = ("tool_calls", "function_call")
MEDIA = {"images", "image", "audios", "audio", "videos", "video"}
MORE_FIELDS = (*FLAGS, *REASONING, TOOLS, FUNCTIONS, *MEDIA)
NAME_CHARACTERS = 40  # of a field's name in a report
_REQUIRED = object()


class RecordFields:
    """A record or a message that knows which of its fields were taken.

    Attributes:
        values: of the fields, by their names in small letters.
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.values: Mapping[str, Any] = values
        self._spelled: Mapping[str, str] = {}
        if names := _small(tuple(values)):
            self._spelled = {low: name for name, low in names.items()}
            self.values = {names[name]: value for name, value in values.items()}
        self._taken: set[str] = set()

    def has_any(self, names: AbstractSet[str]) -> bool:
        """Whether there is one of these fields; most have none, which this finds in one step."""
        return not names.isdisjoint(self.values)

    def get(self, name: str) -> Any:
        """The value of a field, which does not count as taken; null is none."""
        return self.values.get(name)

    def take(self, *names: str) -> Any:
        """The value of the first of these fields that is not null; None if all are."""
        for name in names:
            if (value := self.values.get(name)) is not None:
                self._taken.add(name)
                return value
        return None

    def is_filled(self, name: str) -> bool:
        """Whether a field holds more than blanks."""
        return self.filled(name) == name

    def filled(self, *names: str) -> str:
        """The name of the first of these fields that holds more than blanks; empty if none does."""
        for name in names:
            if (value := self.values.get(name)) and not (isinstance(value, str) and not value.strip()):
                return name
        return ""

    def lookup(self, name: str, default: Any = _REQUIRED) -> Any:
        """The value of a field that a user has named, such as `a.b` for field b of field a; it counts as taken.

        Args:
            name: of the field.
            default: what is returned where there is no such field.

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
        """A field's name as the record has it."""
        return self._spelled.get(name, name)

    def left(self) -> Iterator[str]:
        """The names of fields that hold something and were not taken."""
        for name, value in self.values.items():
            if name not in self._taken and value is not None and not (hasattr(value, "__len__") and not len(value)):
                yield str(self.spelled(name))[:NAME_CHARACTERS]


@lru_cache(maxsize=1 << 10)  # nearly all records of a file have the same names
def _small(names: tuple[str, ...]) -> dict[str, str]:
    """Names in small letters, by what they are in a record; nothing where all are so as it is."""
    # Of names that differ by case alone the one in small letters is meant; the others stay as they are.
    small = {name: name.strip().lower() for name in names}
    known = "".join(names)
    if known == known.lower() and not any(map(str.isspace, known)):
        return {}
    return {name: name if low in small else low for name, low in small.items()}


def refuse_media(fields: RecordFields) -> None:
    """Refuse what is about more than text.

    Raises:
        Unusable: there is a picture, a sound or a film.
    """
    if not fields.has_any(MEDIA):
        return
    for name in sorted(fields.values.keys() & MEDIA):
        if fields.take(name):
            raise Unusable(f"it has {name}, which a model of text cannot read")


def weight_of(fields: RecordFields) -> int | None:
    """1 if a message's own flags say that it is trained on, 0 if one says that it is not; None without flags.

    Raises:
        Unusable: a flag is something else.
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
    """Whether a flag of a whole record says that nothing in it is trained on; a measured loss is no flag."""
    if not fields.has_any(FLAGS):
        return False
    flags = [name for name in FLAGS if isinstance(fields.get(name), bool)]
    flags += ["weight"] if type(weight := fields.get("weight")) in (int, float) and weight in (0, 1) else []
    return any([bool(fields.take(name)) == (name in MASKED) for name in flags])


def reasoning_of(fields: RecordFields) -> str:
    """What is thought before something is said; nothing where there is none, or none that is text."""
    name = fields.filled(*REASONING)
    return str(fields.take(name)) if name and isinstance(fields.get(name), str) else ""


def tools_of(fields: RecordFields) -> str:
    """The functions that can be called, as a JSON list; nothing where there are none.

    Raises:
        Unusable: they are no JSON.
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


def calls_of(fields: RecordFields) -> str:
    """Calls of tools, a line of JSON with name and arguments for each; nothing where there are none.

    Raises:
        Unusable: a call is none.
    """
    name = fields.filled(*CALLS)
    if not name:
        return ""
    calls = parsed(fields.take(name), f"the field {name} is a text that is")
    if isinstance(calls, dict):
        calls = [calls]
    if not isinstance(calls, list):
        raise Unusable(f"the field {name} is not a list but {kind_of(calls)}")
    return "\n".join(json.dumps(_call(call), ensure_ascii=False) for call in calls)


def _call(call: Any) -> dict[str, Any]:
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise Unusable("a tool call has no name")
    arguments = parsed(function.get("arguments"), "the arguments of a tool call are")
    return {"name": function["name"], "arguments": {} if arguments is None else arguments}


def parsed(value: Any, complaint: str) -> Any:
    """A value that is given as such or, as tables do, as JSON text.

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
    """Text, given as such or as a list of parts of the type text.

    Raises:
        Unusable: it is something else; `name` is that of its field.
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
