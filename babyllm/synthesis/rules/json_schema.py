"""Whether a JSON value fits a schema, for the part of JSON Schema that replies and tools use.

A schema with a keyword that is not checked here is refused at the beginning, so that what is accepted was checked.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from babyllm.config.json_fields import kind_of

_KINDS: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "number": (int, float),
    "integer": (int,),
    "boolean": (bool,),
    "null": (type(None),),
}
_SAID = ("title", "description", "default", "examples", "$schema", "format")  # these restrict nothing
_CHECKED = (
    *("type", "properties", "required", "additionalProperties", "items", "minItems", "maxItems", "enum", "const"),
    *("minimum", "maximum", "minLength", "maxLength"),
)
MAX_DEPTH = 32


def unchecked(schema: Any, depth: int = 0) -> str:
    """What in a schema is not checked, in words; empty if everything is."""
    if not isinstance(schema, dict):
        return "" if isinstance(schema, bool) else f"a schema that is {kind_of(schema)}"
    if depth > MAX_DEPTH:
        return "a schema that is too deep"
    kinds = schema.get("type", [])
    kinds = kinds if isinstance(kinds, list) else [kinds]
    if wrong := [kind for kind in kinds if kind not in _KINDS]:
        return f"the type {wrong[0]!r}"
    if others := [name for name in schema if name not in (*_SAID, *_CHECKED)]:
        return f"the keyword {others[0]!r}"
    properties = schema.get("properties", {})
    if not isinstance(properties, dict):
        return "properties that are not an object"
    inner = [*properties.values(), schema.get("items", True), schema.get("additionalProperties", True)]
    return next((found for one in inner if (found := unchecked(one, depth + 1))), "")


def fault_in(value: Any, schema: Any, name: str = "it") -> str:
    """Why a value does not fit a schema, in words; empty if it does.

    Args:
        value: JSON value.
        schema: schema of which `unchecked` is empty.
        name: name of the value in the message.
    """
    if isinstance(schema, bool):
        return "" if schema else f"{name} is not expected"
    kinds = schema.get("type")
    kinds = kinds if isinstance(kinds, list) else [kinds] if kinds else []
    if kinds and not any(_is_a(value, kind) for kind in kinds):
        return f"{name} is not of the type {' or '.join(kinds)} but {kind_of(value)}"
    if "enum" in schema and not any(_equal(value, one) for one in schema["enum"]):
        return f"{name} is not one of the values allowed"
    if "const" in schema and not _equal(value, schema["const"]):
        return f"{name} is not the value allowed"
    if isinstance(value, dict):
        return _object_fault(value, schema, name)
    if isinstance(value, list):
        return _size_fault(len(value), schema, "Items", name) or next(
            (why for i, one in enumerate(value) if (why := fault_in(one, schema.get("items", True), f"{name}[{i}]"))),
            "",
        )
    if isinstance(value, str):
        return _size_fault(len(value.strip()), schema, "Length", name)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        low, high = schema.get("minimum"), schema.get("maximum")
        if value != value or (low is not None and value < low) or (high is not None and value > high):
            return f"{name} is out of range"
    return ""


def _object_fault(value: Mapping[str, Any], schema: Mapping[str, Any], name: str) -> str:
    if missing := [one for one in schema.get("required", ()) if one not in value]:
        return f"{name} lacks {missing[0]}"
    properties, others = schema.get("properties", {}), schema.get("additionalProperties", True)
    for key, inner in value.items():
        label = key if name == "it" else f"{name}.{key}"
        if why := fault_in(inner, properties.get(key, others), label[:80]):
            return why
    return ""


def _size_fault(n: int, schema: Mapping[str, Any], unit: str, name: str) -> str:
    if n < schema.get(f"min{unit}", 0):
        return f"{name} is too short"
    return f"{name} is too long" if n > schema.get(f"max{unit}", n) else ""


def _is_a(value: Any, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    return isinstance(value, _KINDS[kind]) or (kind == "integer" and isinstance(value, float) and value.is_integer())


def _equal(a: Any, b: Any) -> bool:
    return bool(a == b) and isinstance(a, bool) == isinstance(b, bool)
