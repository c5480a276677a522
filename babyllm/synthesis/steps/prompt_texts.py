"""Prompts with values in place of names, and what is said of the JSON that is wanted.

Names are replaced once: braces in values stay as they are, so that a text with `{answer}` in it inserts nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from babyllm.errors import UserError

_NAME = re.compile(r"\{(\w+)\}")
_TYPES: dict[str, Any] = {
    "text": {"type": "string", "minLength": 1},
    "optional text": {"type": "string"},
    "texts": {"type": "array", "items": {"type": "string", "minLength": 1}, "minItems": 1},
    "integer": {"type": "integer"},
    "number": {"type": "number"},
    "object": {"type": "object"},
    "score": {"type": "integer", "minimum": 1, "maximum": 10},
}


def rendered(template: str, values: Mapping[str, Any], where: str) -> str:
    """A text with values in place of names in braces.

    Args:
        template: text with names.
        values: value of each name; lists of texts become lines, other values that are not text become JSON.
        where: recipe and step, for messages.

    Raises:
        UserError: a name has no value.
    """

    def value_of(found: re.Match[str]) -> str:
        if found[1] not in values:
            known = ", ".join(sorted(values))
            raise UserError(f"{where}: {found[0]} has no value; there are {known}")
        return shown(values[found[1]])

    return _NAME.sub(value_of, template)


def shown(value: Any) -> str:
    """A value as it stands in a prompt."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value and all(isinstance(one, str) for one in value):
        return "\n".join(f"- {one}" for one in value)
    return json.dumps(value, ensure_ascii=False)


def value_in(template: Any, values: Mapping[str, Any], where: str) -> Any:
    """What a field of a record holds: a value if the template is its name in braces alone, else a text, list or object.

    Raises:
        UserError: a name has no value.
    """
    if isinstance(template, dict):
        return {name: value_in(one, values, where) for name, one in template.items()}
    if isinstance(template, list):
        return [value_in(one, values, where) for one in template]
    if not isinstance(template, str):
        return template
    alone = _NAME.fullmatch(template)
    return values[alone[1]] if alone and alone[1] in values else rendered(template, values, where)


def schema_of(reply: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The JSON schema of the object that a step wants.

    Args:
        reply: type of each field: one of the short names, or a JSON schema.
        where: recipe and step, for messages.

    Raises:
        UserError: a type is unknown.
    """
    properties = {}
    for name, kind in reply.items():
        if isinstance(kind, str) and kind not in _TYPES:
            raise UserError(f"{where}: reply.{name}: {kind!r} is not one of {', '.join(_TYPES)}, or a JSON schema")
        properties[name] = _TYPES[kind] if isinstance(kind, str) else kind
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def form_of(schema: Mapping[str, Any]) -> str:
    """The form of a JSON value in one line, such as {"question": "...", "score": 1}."""
    return json.dumps(stand_in(schema, "..."), ensure_ascii=False)


def stand_in(schema: Mapping[str, Any], text: str, n: int = 1) -> Any:
    """A value of a schema.

    Args:
        schema: schema of the value.
        text: each text in it.
        n: number of elements of its lists.
    """
    kind = schema.get("type")
    if "enum" in schema:
        return schema["enum"][0]
    if kind == "object":
        return {name: stand_in(one, text, n) for name, one in schema.get("properties", {}).items()}
    if kind == "array":
        return [stand_in(schema.get("items", {}), text) for _ in range(n)]
    if kind in ("integer", "number"):
        return schema.get("minimum", 1)
    return True if kind == "boolean" else None if kind == "null" else text
