"""What a model wrote: its text, or the JSON object in it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from babyllm.endpoint.replies import LENGTH, Reply
from babyllm.synthesis.rules.json_schema import fault_in

MAX_CHARACTERS = 200_000  # a longer reply is not looked at
_ATTEMPTS = 50  # places at which JSON may begin
_FENCE = re.compile(r"```(?:json|JSON)?[ \t]*\n(.*?)\n[ \t]*```", re.DOTALL)
# Controls but tab and line break; what reorders or hides text: marks of direction, tags, the byte order mark; and lone
# surrogates, which are not text.
_UNWANTED = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff\U000e0000-\U000e007f]"
)


class Unreadable(ValueError):
    """A reply of which nothing is made; the message is the reason, `detail` what differs from reply to reply."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.detail = detail


def text_of(reply: Reply) -> str:
    """The text of a reply, without the thoughts before it.

    Raises:
        Unreadable: it is cut, too long, or holds control characters.
    """
    if reply.finish == LENGTH:
        raise Unreadable("cut at max_tokens")
    if len(reply.text) > MAX_CHARACTERS:
        raise Unreadable(f"longer than {MAX_CHARACTERS:,} characters", f"{len(reply.text):,} characters")
    text = reply.text.rpartition("</think>")[2].replace("\r\n", "\n").strip()
    if "<think>" in text or not text:
        raise Unreadable("no text after its thoughts")
    check_characters(text)
    return text


def check_characters(text: str) -> None:
    """Check that a text holds no control characters and nothing that hides or reorders text.

    Raises:
        Unreadable: it does.
    """
    if found := _UNWANTED.search(text):
        raise Unreadable("control characters", f"U+{ord(found[0]):04X} at {found.start():,}")


def object_in(text: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON object in a text: the first one that fits a schema, in a fenced block or among other words.

    A list is accepted where the schema has one field alone, which holds a list.

    Raises:
        Unreadable: there is none.
    """
    names = list(schema["properties"])
    why = "no JSON"
    for value in _values(text):
        if isinstance(value, list) and len(names) == 1 and schema["properties"][names[0]].get("type") == "array":
            value = {names[0]: value}
        if isinstance(value, dict):
            found = {name: value[name] for name in names if name in value}
            if not (fault := fault_in(found, schema)):
                _check_texts(found)
                return found
            why = f"JSON of another form: {fault}"
    reason, _, detail = why.partition(": ")
    raise Unreadable(reason, detail)


def _values(text: str) -> list[Any]:
    """The JSON values that begin with a brace or a bracket and do not lie in one another."""
    found, decoder = [], json.JSONDecoder(strict=False, parse_constant=_refuse)
    for part in [*(match[1] for match in _FENCE.finditer(text)), text]:
        place, attempts = 0, 0
        while attempts < _ATTEMPTS and (begin := re.compile(r"[{\[]").search(part, place)):
            attempts += 1
            try:
                value, place = decoder.raw_decode(part, begin.start())
                found.append(value)
            except (ValueError, RecursionError):
                place = begin.start() + 1
    return found


def _refuse(name: str) -> Any:
    raise ValueError(name)  # NaN and infinities are not JSON


def _check_texts(value: Any) -> None:
    """Check every text of a JSON value, whose escapes may hold what the reply's own text does not."""
    if isinstance(value, str):
        check_characters(value)
    elif isinstance(value, (list, dict)):
        for one in value.values() if isinstance(value, dict) else value:
            _check_texts(one)
