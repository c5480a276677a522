"""Types of fields that the bodies of several endpoints share."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Field

from babyllm.serve.api.validation import Expected

UNLIMITED = 10**9
"""A number of tokens that stands for no limit."""
PROMPT = "a string, a list of strings, a list of token ids or a list of such lists"


def minus_one_is_unlimited(value: Any) -> Any:
    """A limit; -1 stands for none."""
    return UNLIMITED if value == -1 else value


def valid_unicode(value: str) -> str:
    """The text itself, if it has no lone surrogates, which are not characters.

    Raises:
        ValueError: the text has a lone surrogate.
    """
    value.encode()
    return value


def not_bool(value: Any) -> Any:
    """The value itself, if it is not true or false, which count as numbers in Python.

    Raises:
        ValueError: the value is true or false.
    """
    if isinstance(value, bool):
        raise ValueError("true and false are not numbers")
    return value


def false_is_none(value: Any) -> Any:
    """The value; false counts as absent."""
    return None if value is False else value


def empty_is_object(value: Any) -> Any:
    """The value; an empty one of any kind counts as an empty object."""
    return value or {}


Flag: TypeAlias = Annotated[bool, Expected("true or false")]
Unicode: TypeAlias = Annotated[str, AfterValidator(valid_unicode)]
Text: TypeAlias = Annotated[Unicode, Expected("a string of valid Unicode")]
Effort: TypeAlias = Annotated[
    Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"],
    Expected("none, minimal, low, medium, high, xhigh or max"),
]
Ids: TypeAlias = Annotated[list[int], Field(min_length=1, fail_fast=True)]
Prompts: TypeAlias = Annotated[
    Unicode
    | Annotated[list[Unicode], Field(min_length=1, fail_fast=True)]
    | Ids
    | Annotated[list[Ids], Field(min_length=1, fail_fast=True)],
    Expected(PROMPT),
]
MAY_BE_UNLIMITED = BeforeValidator(minus_one_is_unlimited)
EMPTY_IS_OBJECT = BeforeValidator(empty_is_object)
