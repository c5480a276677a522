"""Lists of messages in their usual shapes: objects with a role, pairs, texts in turn, numbered turns.

value of a field -> Talk.messages -> [Message]; unknown roles keep their names
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import cycle
from operator import itemgetter
from typing import Any

from babyllm.chat.messages import ASSISTANT, SYSTEM, TOOL, USER, Message, Unusable
from babyllm.chat.records.advice import Unrecognised, settings_for
from babyllm.chat.records.fields import (
    RecordFields,
    call_id_of,
    call_in,
    calls_of,
    content_of,
    parsed,
    reasoning_of,
    refuse_media,
    tools_of,
    weight_of,
)
from babyllm.chat.records.transcripts import spoken_in
from babyllm.config.json_fields import kind_of

Speakers = tuple[tuple[str, str], ...]
"""Names of fields that may hold a message's role and content, in the order in which they are tried."""
SPEAKERS: dict[str, Speakers] = {"messages": (("role", "content"),), "sharegpt": (("from", "value"),)}
_SPEAKING, _SAID = ("role", "from", "speaker", "author", "sender"), ("content", "value", "text", "utterance", "message")
ANY_SPEAKERS: Speakers = (
    *SPEAKERS["messages"],
    *SPEAKERS["sharegpt"],
    *((role, content) for role in _SPEAKING for content in _SAID),
)
# Names of a question and an answer in one element of a list, for elements that do not name user and assistant.
_PAIRS = (("input", "output"), ("question", "answer"), ("prompt", "response"), ("query", "response"), ("q", "a"))

CALLER = "function_call"  # its messages are calls, spelled as JSON
# Other names of the four roles that templates know; any name not listed is a role of its own.
ROLES = {
    **dict.fromkeys(("user", "human", "prompter", "用户"), USER),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bing", "bard", "bot", "model", CALLER), ASSISTANT),
    **dict.fromkeys(("moss", "chatbot", "ai", "助手"), ASSISTANT),
    **dict.fromkeys(("system", "developer", "系统"), SYSTEM),
    **dict.fromkeys(("tool", "function", "observation", "function_response", "ipython"), TOOL),
}
_TURN = re.compile(r"turn_?(\d+)")
_MOSS_MARKS = re.compile(r"\A\s*<\|[\w ]+\|>:\s*|\s*<eo[a-z]>\s*\Z")
_MOSS_NOTHING = ("", "none")


class _NoSpeaker(Unusable):
    """A message without a speaker."""


class Talk:
    """Reads lists of messages.

    Args:
        roles: role of each speaker's name in the data; these take precedence over the known names.
        speakers: names of fields that may hold a message's role and content.
    """

    def __init__(self, roles: Mapping[str, str], speakers: Speakers) -> None:
        self._roles, self._speakers = roles, speakers
        self.left = dict[str, None]()
        """Names of fields of messages that were not used."""

    def messages(self, value: Any, name: str) -> Iterator[Message]:
        """The messages in the field `name`.

        Raises:
            Unusable: the field does not hold messages.
        """
        if isinstance(value, str) and (found := spoken_in(value, name)):
            yield from map(self.named, found)
            return
        if isinstance(value, str) and not value.lstrip().startswith(("[", "{")):
            raise Unusable(f"the field {name} is not a list but {kind_of(value)}")
        value = parsed(value, f"the field {name} is a text that is")
        if isinstance(value, dict) and (turns := _numbered(value)):
            yield from (message for turn in turns for message in self._moss(turn))
        elif not isinstance(value, list):
            raise Unusable(f"the field {name} is not a list but {kind_of(value)}")
        elif len(value) > 1 and all(isinstance(item, str) for item in value):
            yield from (Message(role, text) for role, text in zip(cycle((USER, ASSISTANT)), value, strict=False))
        else:
            try:
                yield from (message for item in value for message in self._element(item))
            except _NoSpeaker as error:
                raise Unrecognised(str(error), settings_for({name: value}, str)) from None

    def history(self, value: Any, name: str) -> Iterator[Message]:
        """The earlier exchanges in the field `name`: pairs of question and answer, or messages.

        Raises:
            Unusable: the field does not hold exchanges.
        """
        value = parsed(value, f"the field {name} is a text that is")
        if not isinstance(value, list):
            raise Unusable(f"the field {name} is not a list but {kind_of(value)}")
        pairs = [item for item in value if isinstance(item, list)]
        if len(value) != len(pairs) and all(isinstance(item, dict) for item in value):
            yield from (message for item in value for message in self._element(item))
        elif any(len(pair) != 2 for pair in pairs) or len(pairs) != len(value):
            raise Unusable(f"the field {name} is not a list of [question, answer]")
        else:
            for question, answer in pairs:
                yield Message(USER, content_of(question, name))
                yield Message(ASSISTANT, content_of(answer, name))

    def named(self, message: Message) -> Message:
        """The message with the role of its speaker's name."""
        return Message(self._role(message.role), message.content, input=message.input)

    def _element(self, item: Any) -> Iterator[Message]:
        """The message in an element of a list; two messages for a pair such as {"human": ..., "assistant": ...}."""
        if isinstance(item, list) and len(item) == 2 and all(isinstance(text, str) for text in item):
            yield from (Message(USER, item[0]), Message(ASSISTANT, item[1]))
            return
        if not isinstance(item, dict):
            raise Unusable(f"a message is not an object but {kind_of(item)}")
        fields = RecordFields(item)
        refuse_media(fields)
        weight = weight_of(fields)
        speaker, content = self._names_in(fields)
        if speaker:
            name, calls, text = fields.take(speaker), calls_of(fields), fields.take(content)
            text = "" if calls and not text else content_of(text, content)
            message = Message(self._role(name), text, weight, reasoning_of(fields), tools_of(fields))
            if message.role == TOOL and (call_id := call_id_of(fields)):
                message = replace(message, call_id=call_id)
            if name == CALLER and not calls and (call := call_in(text)):
                message = replace(message, tool_calls=(call,))
            yield message.with_calls(calls)
        else:
            yield from self._pair(fields, weight)
        for left in fields.left():
            self.left[f"{left} of messages"] = None

    def _names_in(self, fields: RecordFields) -> tuple[str, str]:
        """The names of a message's role and content fields; for a message without a content the expected names."""
        first = ("", "")
        for pair in self._speakers:
            if fields.get(pair[0]) is not None:
                if fields.get(pair[1]) is not None:
                    return pair
                first = first if first[0] else pair
        return first

    def _pair(self, fields: RecordFields, weight: int | None) -> Iterator[Message]:
        """The messages of an object whose fields are named for speakers, or for a question and its answer."""
        # Tables sort their fields, so the order of the fields is not the order of the messages.
        roles = {name: self._role(name) for name, text in fields.values.items() if isinstance(text, str)}
        roles |= next(({q: USER, a: ASSISTANT} for q, a in _PAIRS if {q, a} <= roles.keys()), {})
        found = {role: next((n for n, r in roles.items() if r == role), "") for role in (SYSTEM, USER, ASSISTANT)}
        if not any(found.values()):
            raise _NoSpeaker(f"a message has no role and content but {', '.join(fields.values) or 'nothing'}")
        for role, name in found.items():
            if name and ((text := fields.take(name)) or role != SYSTEM):
                yield Message(role, text, weight)

    def _moss(self, turn: Mapping[str, Any]) -> Iterator[Message]:
        """The messages of a turn in the MOSS format: question, thoughts, commands, results and answer, unmarked."""
        fields = RecordFields(turn)
        said = {name: _MOSS_MARKS.sub("", text) for name, text in fields.values.items() if isinstance(text, str)}
        if not {"human", "moss"} <= said.keys():
            raise Unusable(f"a turn has no Human and MOSS but {', '.join(turn) or 'nothing'}")
        thoughts, commands, results = (
            "" if (text := said.get(name, "")).lower() in _MOSS_NOTHING else text
            for name in ("inner thoughts", "commands", "tool responses")
        )
        yield Message(USER, said["human"])
        if commands:
            yield Message(ASSISTANT, commands, reasoning=thoughts)
            thoughts = ""
        if results:
            yield Message(TOOL, results)
        yield Message(ASSISTANT, said["moss"], reasoning=thoughts)

    def _role(self, name: Any) -> str:
        if not isinstance(name, str) or not name.strip():
            raise Unusable(f"a role is not a name but {kind_of(name) if not isinstance(name, str) else 'blank'}")
        return self._roles.get(name) or ROLES.get(name.strip().lower(), name)


def is_talk(value: Any) -> bool:
    """Whether a value is clearly a list of messages, whatever the name of its field."""
    if isinstance(value, dict):
        return bool(_numbered(value))
    if not isinstance(value, list) or not value:
        return False
    if all(isinstance(item, str) for item in value):
        return len(value) > 1
    return all(isinstance(item, dict) and _speaks(item) for item in value)


def _speaks(item: Mapping[str, Any]) -> bool:
    names = {str(name).strip().lower() for name in item}
    return any({role, content} <= names for role, content in ANY_SPEAKERS) or {USER, ASSISTANT} <= {
        ROLES.get(name) for name in names
    }


def _numbered(value: Mapping[str, Any]) -> list[Any]:
    """The values of turn_1, turn_2, ... in their order; empty if there are other names too."""
    found = [(int(match[1]), turn) for name, turn in value.items() if (match := _TURN.fullmatch(str(name)))]
    turns = [turn for _, turn in sorted(found, key=itemgetter(0)) if turn is not None]
    return turns if len(found) == len(value) and all(isinstance(turn, dict) for turn in turns) else []
