"""The texts of a record that its conversation is made of, and the record with other texts in their places.

fields, conversation -> texts_in -> {place in the record: (role, text)}
fields, {place: text} -> with_texts -> fields

A text is the value of a field, at any depth, or of a field of JSON that is stored as text. It belongs to the message
that equals it, that contains it (such as a title above a question), or that it contains (such as a transcript).
"""

from __future__ import annotations

import json
from collections.abc import Container, Iterator, Mapping
from typing import Any

from babyllm.chat.messages import Conversation

Place = tuple[str | int | None, ...]
"""Keys and indices from the record to a text; None steps into JSON that is stored as text."""
_JSON_BEGINNINGS = ("[", "{")


def texts_in(fields: Mapping[str, Any], conversation: Conversation) -> dict[Place, tuple[str, str]]:
    """The texts of a record that its messages are made of, with the role of the message: {place: (role, text)}."""
    roles: dict[str, str] = {}
    for message in conversation.messages:
        for text in (message.content, message.instruction, message.input, message.reasoning):
            if text.strip():
                roles.setdefault(text, message.role)
    found: dict[Place, tuple[str, str]] = {}
    others: list[tuple[Place, str]] = []
    for place, text in _strings(fields, roles):
        if (role := roles.get(text)) is not None:
            found[place] = role, text
        elif text.strip():
            others.append((place, text))
    exact = {text for _, text in found.values()}
    missing = [m for m in conversation.messages if not {m.content, m.instruction, m.input} & exact and m.content]
    for place, text in others if missing else ():
        owner = next((m for m in missing if text in m.content or m.content in text), None)
        if owner:
            found[place] = owner.role, text
    return found


def with_texts(fields: Mapping[str, Any], texts: Mapping[Place, str]) -> dict[str, Any]:
    """The record with these texts in their places; all other values are the same objects."""
    result: Any = dict(fields)
    for place, text in texts.items():
        result = _placed(result, place, text)
    return dict(result)


def _strings(value: Any, known: Container[str], place: Place = ()) -> Iterator[tuple[Place, str]]:
    """Every text below a value; JSON that is stored as text is opened, unless it is one of the `known` texts."""
    if isinstance(value, str):
        inner = None if value in known else _json_in(value)
        if inner is None:
            yield place, value
        else:
            yield from _strings(inner, known, (*place, None))
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _strings(item, known, (*place, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _strings(item, known, (*place, index))


def _json_in(text: str) -> Any:
    """The list or object that a text spells; None for any other text."""
    if not text.lstrip().startswith(_JSON_BEGINNINGS):
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _placed(value: Any, place: Place, text: str) -> Any:
    if not place:
        return text
    step, rest = place[0], place[1:]
    if step is None:
        return json.dumps(_placed(json.loads(value), rest, text), ensure_ascii=False)
    if isinstance(value, list):
        index = int(step)
        return [*value[:index], _placed(value[index], rest, text), *value[index + 1 :]]
    return {**value, step: _placed(value[step], rest, text)}
