"""Objects of JSON schemas closed, so that models add no fields."""

from typing import Any

import pytest

from babyllm.chat.tools.json_rule import closed
from babyllm.errors import UserError

TEXT = {"type": "string"}
A: dict[str, Any] = {"type": "object", "properties": {"a": TEXT}, "required": ["a"]}
B: dict[str, Any] = {"type": "object", "properties": {"b": TEXT}}
SHUT = {"additionalProperties": False}
REF = {"$ref": "#/$defs/A"}


def tagged(tag: str, **more: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {"kind": {"const": tag}, **more}, "required": ["kind"]}


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        (A, A | SHUT),
        ({"type": "object", "properties": {}}, {"type": "object", "properties": {}, **SHUT}),
        ({"properties": {"x": A}}, {"properties": {"x": A | SHUT}, **SHUT}),
        ({"type": "array", "items": A}, {"type": "array", "items": A | SHUT}),
        ({"prefixItems": [A, TEXT]}, {"prefixItems": [A | SHUT, TEXT]}),
        ({"anyOf": [A, {"type": "null"}]}, {"anyOf": [A | SHUT, {"type": "null"}]}),
        ({"$defs": {"A": A}, **REF}, {"$defs": {"A": A | SHUT}, **REF}),
        ({"definitions": {"A": A}}, {"definitions": {"A": A | SHUT}}),
        ({"$defs": {"A": A}, "allOf": [REF]}, {"$defs": {"A": A | SHUT}, "allOf": [REF]}),
        ({"properties": {"properties": A}}, {"properties": {"properties": A | SHUT}, **SHUT}),
        (
            {"oneOf": [tagged("p", x=TEXT), tagged("q")]},
            {"oneOf": [tagged("p", x=TEXT) | SHUT, tagged("q") | SHUT]},
        ),
        ({**A, "anyOf": [{"required": ["a"]}]}, {**A, "anyOf": [{"required": ["a"]}], **SHUT}),
    ],
)
def test_objects_that_list_their_fields_are_closed(schema: dict[str, Any], expected: dict[str, Any]) -> None:
    """Wherever an object is, if it says nothing about further fields."""
    assert closed(schema) == expected


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object"},
        A | {"additionalProperties": True},
        A | {"additionalProperties": TEXT},
        A | {"patternProperties": {"^x": TEXT}},
        A | {"unevaluatedProperties": False},
        A | {"minProperties": 2},
        A | {"required": ["a", "other"]},
        A | {"allOf": [B]},
        {"allOf": [A, B]},
        {"$defs": {"A": A}, "allOf": [REF, B]},
        {"$defs": {"A": A}, "properties": {"c": TEXT}, **REF},
        {"$defs": {"A": A, "B": {"anyOf": [REF]}}, "allOf": [{"$ref": "#/$defs/B"}, B]},
        A | {"anyOf": [B, TEXT]},
        A | {"anyOf": [{"required": ["other"]}]},
        {"oneOf": [A, B]},
        {"$defs": {"A": A}, "oneOf": [REF, B]},
        {"const": A},
        {"properties": 5, "items": None, "oneOf": 3, "$defs": []},
    ],
)
def test_what_stays_open(schema: dict[str, Any]) -> None:
    """What allows other fields, or describes a value together with another schema, stays as it is."""
    assert closed(schema) == schema


def test_a_schema_that_is_nested_too_deeply_is_refused() -> None:
    """It is one error of the user."""
    schema: dict[str, Any] = {}
    for _ in range(100_000):
        schema = {"items": schema}
    with pytest.raises(UserError, match="nested too deeply"):
        closed(schema)
