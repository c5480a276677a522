"""JSON of a request -> the pydantic model of its endpoint; every mistake becomes one `Problem` that names the field.

bytes -> parse_json -> Body, without nulls and values that change nothing -> checked fields | Problem
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, ClassVar, NoReturn, TypeVar

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, ValidationError, model_validator
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from babyllm.serve.api.neutral import Neutral
from babyllm.serve.api.problem import Problem

MAX_SHOWN = 40
"""Largest number of characters of a client's text that a message quotes."""
WRONG, UNSUPPORTED = "wrong_value", "unsupported_parameter"
_ABSENT = object()
"""Stands for a required field that is missing: no type takes it, so the message says what the field must be."""


@dataclass(frozen=True)
class Expected:
    """An annotation of a field: any invalid value has the message "FIELD must be WORDS"."""

    words: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """The field's schema with this message."""
        return _expecting(self.words, handler(source))


@dataclass(frozen=True)
class Integer:
    """An annotation of a field: a whole number from `low` to `high`; it may have a decimal point, such as 2.0.

    Attributes:
        low: smallest number.
        high: largest number.
        words: description of valid values; if it is empty, the message names `low` and `high`.
    """

    low: int
    high: int
    words: str = ""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """The schema of such a number."""
        number = core_schema.int_schema(strict=True, ge=self.low, le=self.high)
        integral = core_schema.no_info_before_validator_function(_without_point, number)
        return _expecting(self.words or f"a whole number from {self.low} to {self.high}", integral)


@dataclass(frozen=True)
class Number:
    """An annotation of a field: a number from `low` to `high`."""

    low: float
    high: float

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """The schema of such a number."""
        number = core_schema.float_schema(strict=True, ge=self.low, le=self.high, allow_inf_nan=False)
        return _expecting(f"a number from {self.low:g} to {self.high:g}", number)


def _expecting(words: str, schema: CoreSchema) -> CoreSchema:
    return core_schema.custom_error_schema(schema, WRONG, custom_error_message=f"must be {words}")


def _without_point(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


class Body(BaseModel):
    """A JSON object of a request. An unknown field is refused by name, null counts as absent.

    Attributes:
        harmless: fields that change nothing whatever their value.
        neutral: fields that change nothing with one of the listed values.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
    harmless: ClassVar[frozenset[str]] = frozenset()
    neutral: ClassVar[Neutral] = {}

    @model_validator(mode="before")
    @classmethod
    def _only_known_fields(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        known = cls.__pydantic_fields__
        given = {name: item for name, item in value.items() if item is not None}
        for name in [name for name in given if name not in known]:
            item = given.pop(name)
            if name not in cls.harmless and item not in cls.neutral.get(name, ()):
                only = f" (only {json.dumps(cls.neutral[name][0])})" if name in cls.neutral else ""
                raise PydanticCustomError(UNSUPPORTED, "is not supported here", {"name": shown(name), "only": only})
        return {name: _ABSENT for name, field in known.items() if field.is_required()} | given


B = TypeVar("B", bound=Body)


def parse_body(schema: type[B], content: bytes) -> B:
    """The checked body of a request.

    Args:
        schema: model of the endpoint's body.
        content: JSON in UTF-8.

    Raises:
        Problem: the content is not JSON, or does not fit the model; the message names the field.
    """
    value = parse_json(content)
    try:
        return schema.model_validate(value)
    except ValidationError as error:
        raise _problem(error) from None


def parse_json(content: bytes) -> Any:
    """The JSON value of a request's body.

    Raises:
        Problem: the body is not JSON, or an object in it names a field twice.
    """
    if not content.strip():
        raise Problem(400, "the body is empty: send a JSON object")
    try:
        return json.loads(content.decode(), parse_constant=_refuse_constant, object_pairs_hook=_object)
    except UnicodeDecodeError:
        raise Problem(400, "the body is not UTF-8") from None
    except RecursionError:
        raise Problem(400, "the body is not JSON: it is nested too deeply") from None
    except ValueError as error:
        raise Problem(400, f"the body is not JSON: {str(error)[:200]}") from None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number of JSON")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise Problem(400, f"the field {shown(twice)!r} is given twice", param=shown(twice))
    return found


def _problem(error: ValidationError) -> Problem:
    """The first error of a body, as an error of the API."""
    first = error.errors(include_url=False, include_input=False)[0]
    kind, place, context = first["type"], _place(first["loc"]), first.get("ctx", {})
    if kind == "model_type":
        return Problem(400, f"{place or 'the body'} is not a JSON object", param=place or None)
    if kind == UNSUPPORTED:
        name = context["name"]
        message = f"{_field(place, name)} is not supported here{context['only']}"
        return Problem(400, message, param=name, code=UNSUPPORTED)
    return Problem(400, f"{place} {first['msg']}", param=place)


def _place(location: tuple[int | str, ...]) -> str:
    """("messages", 0, "(parts)", "role") -> "messages[0].role"; a step in parentheses is a branch, not a field."""
    place = ""
    for step in location:
        if isinstance(step, int):
            place += f"[{step}]"
        elif not step.startswith("("):
            place = _field(place, step)
    return place


def _field(place: str, name: str) -> str:
    return f"{place}.{name}" if place else name


def shown(name: str) -> str:
    """A client's text, such as a field name, as messages show it: shortened and in valid Unicode."""
    short = name if len(name) <= MAX_SHOWN else f"{name[:MAX_SHOWN]}..."
    return short.encode(errors="replace").decode()
