"""JSON schemas in grammars: their white space, and their objects closed, since small models fill open ones.

schema -> closed: no fields that it does not list -> json_rule: %json in the Lark dialect of llguidance
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from babyllm.errors import UserError

OPTIONS: dict[str, Any] = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""llguidance's options of JSON with blanks as `json.dumps` and templates print them.

Free white space would let a model at a high temperature write nothing else.
"""
_DEFINITIONS = ("$defs", "definitions")
_ALTERNATIVES = ("anyOf", "oneOf")
_ABOUT_OTHERS = ("additionalProperties", "patternProperties", "unevaluatedProperties", "minProperties")


def json_rule(schema: Mapping[str, Any]) -> str:
    """The part of a grammar that is JSON and fits a schema, with its objects closed as by `closed`.

    Raises:
        UserError: the schema is nested too deeply.
    """
    text = json.dumps({**closed(schema), "x-guidance": OPTIONS}, ensure_ascii=False)
    return f"%json {text.encode(errors='backslashreplace').decode()}"  # lone surrogates are escapes of JSON again


def closed(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A schema of those values of the given one whose objects have only fields that it lists.

    An object is closed if it has `properties` and says nothing about other fields, as pydantic writes it. It stays open
    where several schemas describe one value (`allOf`, or `properties` beside a reference), since each lists a part of
    its fields. It also stays open in a `oneOf` whose objects have no required field that tells them apart, since a
    value could otherwise fit two of them.

    Raises:
        UserError: the schema is nested too deeply.
    """
    definitions = {f"#/{place}/{name}": one for place in _DEFINITIONS for name, one in _fields(schema.get(place))}
    try:
        kept = _kept(schema, definitions)
        return dict(schema) if "#" in kept else _closed(schema, definitions, kept)
    except RecursionError:
        raise UserError("the JSON schema is nested too deeply") from None


def _closed(schema: Any, definitions: Mapping[str, Any], kept: set[str]) -> Any:
    """A schema with its objects closed, except definitions whose references are kept."""
    if not isinstance(schema, Mapping):
        return schema
    shared = _shared(schema, definitions)
    found = dict(schema)
    for name, value in schema.items():
        if name in ("items", "prefixItems", *_ALTERNATIVES) and name not in shared:
            are_several = isinstance(value, list)
            parts = [_closed(one, definitions, kept) for one in (value if are_several else [value])]
            found[name] = parts if are_several else parts[0]
        elif name in ("properties", *_DEFINITIONS) and name not in shared and isinstance(value, Mapping):
            found[name] = {
                key: one if f"#/{name}/{key}" in kept else _closed(one, definitions, kept) for key, one in value.items()
            }
    return found if shared or not _lists_fields(schema) else {**found, "additionalProperties": False}


def _lists_fields(schema: Mapping[str, Any]) -> bool:
    """Whether a schema lists fields of an object, all that it may require, and says nothing about others."""
    listed = schema.get("properties")
    if not isinstance(listed, Mapping) or any(key in schema for key in _ABOUT_OTHERS):
        return False
    alternatives = [node for name in _ALTERNATIVES for node in _nodes(schema.get(name))]
    return all(_required(node) <= listed.keys() for node in [schema, *alternatives])


def _kept(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> set[str]:
    """References to definitions that stay as they are, because what refers to them describes a shared value."""
    left: list[Any] = [{name: node[name]} for node in _nodes(schema) for name in _shared(node, definitions)]
    kept: set[str] = set()
    while left:
        for node in _nodes(left.pop()):
            reference = node.get("$ref")
            if isinstance(reference, str) and reference not in kept:
                kept.add(reference)
                left.append(definitions.get(reference))
    return kept


def _shared(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> set[str]:
    """Keywords of a schema that describe its value together, and `oneOf` if its parts are not apart."""
    parts = [name for name in ("properties", "$ref", *_ALTERNATIVES) if name in schema]
    every = schema.get("allOf")
    n_every = len(every) if isinstance(every, list) else 0
    shared: set[str] = set()
    if n_every + len(parts) > 1:
        speaking = [name for name in parts if name in ("properties", "$ref") or _says_fields(schema[name])]
        if n_every + len(speaking) > 1:
            shared = {*speaking, *(["allOf"] if n_every else [])}
    is_unclear = "oneOf" in schema and not _are_apart(schema["oneOf"], definitions)
    return shared | ({"oneOf"} if is_unclear else set())


def _are_apart(parts: Any, definitions: Mapping[str, Any]) -> bool:
    """Whether no object fits two of these schemas, whatever other fields it has."""
    if not isinstance(parts, list) or not all(isinstance(one, Mapping) for one in parts):
        return False
    resolved = [definitions.get(str(one.get("$ref")), one) for one in parts]
    if not all(isinstance(one, Mapping) and isinstance(one.get("type"), str) for one in resolved):
        return False
    objects = [one for one in resolved if one["type"] == "object"]
    names = set.intersection(*(_required(one) for one in objects)) if objects else set()
    return len(objects) < 2 or any(_are_distinct([_texts(one, name) for one in objects]) for name in names)


def _are_distinct(lists: list[list[str]]) -> bool:
    """Whether no text is in two of these lists, none of which is empty."""
    return all(lists) and len({text for one in lists for text in one}) == sum(len({*one}) for one in lists)


def _texts(schema: Mapping[str, Any], name: str) -> list[str]:
    """The texts that a field can be; empty if it can be something else."""
    field = dict(_fields(schema.get("properties"))).get(name)
    if not isinstance(field, Mapping):
        return []
    values = [field["const"]] if "const" in field else field.get("enum")
    return values if isinstance(values, list) and all(isinstance(value, str) for value in values) else []


def _required(schema: Mapping[str, Any]) -> set[str]:
    names = schema.get("required")
    return {name for name in names if isinstance(name, str)} if isinstance(names, list) else set()


def _says_fields(value: Any) -> bool:
    """Whether some schema in a value lists fields or refers to another."""
    return any("properties" in node or "$ref" in node for node in _nodes(value))


def _fields(value: Any) -> list[tuple[str, Any]]:
    return list(value.items()) if isinstance(value, Mapping) else []


def _nodes(value: Any) -> Iterator[Mapping[str, Any]]:
    """All objects in a JSON value."""
    if isinstance(value, Mapping):
        yield value
        for one in value.values():
            yield from _nodes(one)
    elif isinstance(value, list):
        for one in value:
            yield from _nodes(one)
