"""Values of JSON files that other programs wrote, each checked for type and range when it is read.

file -> read_json -> Fields -> integer, number, text, ... -> plain values, or one line that names file and key
"""

from __future__ import annotations

import json
import math
import reprlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

from babyllm.errors import UserError

T = TypeVar("T")
REQUIRED: Final = object()
"""The default of a key that must be present."""


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        UserError: the file cannot be read, or is not a JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as e:
        raise UserError(f"{path}: cannot be read ({e.strerror})") from e
    except (ValueError, RecursionError) as e:
        raise UserError(f"{path}: is not JSON ({e})") from e
    if not isinstance(value, dict):
        raise UserError(f"{path}: is not a JSON object")
    return value


class Fields:
    """The values of one JSON object. A key that is absent or null has its default.

    Attributes:
        where: name of the object in messages: its file, and for a nested object also its key.
    """

    def __init__(self, raw: Mapping[str, Any], where: str) -> None:
        self._raw, self.where = raw, where

    def has(self, key: str) -> bool:
        """Whether a key is present with a value other than null."""
        return self._raw.get(key) is not None

    def is_list(self, key: str) -> bool:
        """Whether the value of a key is a list."""
        return isinstance(self._raw.get(key), list)

    def is_object(self, key: str) -> bool:
        """Whether the value of a key is an object."""
        return isinstance(self._raw.get(key), dict)

    def keys(self) -> list[str]:
        """The keys of the object, in their order."""
        return list(self._raw)

    def integer(self, key: str, default: Any = REQUIRED, *, low: int = 1, high: int = 1 << 31) -> Any:
        """A whole number from `low` to `high`, as an int; it may be written with a decimal point, such as 2.0.

        Raises:
            UserError: the value is anything else, or absent without a default.
        """
        value = self._taken(key, default)
        if value is default:
            return default
        is_whole = not isinstance(value, bool) and (
            isinstance(value, int) or (isinstance(value, float) and value.is_integer())
        )
        if not is_whole or not low <= value <= high:
            raise self._wrong(key, value, f"a whole number from {low} to {high}")
        return int(value)

    def number(self, key: str, default: Any = REQUIRED, *, low: float = 0.0, high: float = 1e12) -> Any:
        """A number from `low` to `high`, as a float.

        Raises:
            UserError: the value is anything else, or absent without a default.
        """
        value = self._taken(key, default)
        if value is default:
            return default
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not is_number or not low <= value <= high or not math.isfinite(value):  # NaN is outside of every range
            raise self._wrong(key, value, f"a number from {low:g} to {high:g}")
        return float(value)

    def boolean(self, key: str, default: Any = REQUIRED) -> Any:
        """True or false.

        Raises:
            UserError: the value is anything else, or absent without a default.
        """
        return self._of_type(key, default, bool, "true or false")

    def text(self, key: str, default: Any = REQUIRED) -> Any:
        """A text of valid Unicode.

        Raises:
            UserError: the value is anything else, or absent without a default.
        """
        value = self._of_type(key, default, str, "a text")
        if isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value):
            raise self._wrong(key, value, "a text of valid Unicode")
        return value

    def object(self, key: str) -> Fields:
        """The values of a nested object; an empty one if it is absent.

        Raises:
            UserError: the value is not an object.
        """
        return Fields(self._of_type(key, {}, dict, "an object"), f"{self.where}: {key}")

    def integers(self, key: str, *, low: int = 0, high: int = 1 << 31) -> list[int]:
        """A list of whole numbers from `low` to `high`; empty if it is absent. A single number becomes a list of one.

        Raises:
            UserError: the value is anything else.
        """
        value = self._raw.get(key)
        values = [] if value is None else value if isinstance(value, list) else [value]
        if any(type(one) is not int or not low <= one <= high for one in values):
            raise self._wrong(key, value, f"whole numbers from {low} to {high}")
        return values

    def only(self, key: str, allowed: Sequence[Any], advice: str = "") -> None:
        """Check that a key is absent or has one of the values `allowed`; null counts as a value.

        Raises:
            UserError: the key has another value; the message ends with `advice`.
        """
        if key in self._raw and not any(_is_same(self._raw[key], one) for one in allowed):
            raise UserError(f"{self.where}: {key} {_shown(self._raw[key])} is not supported{advice}")

    def _of_type(self, key: str, default: Any, kind: type[T], name: str) -> T:
        value = self._taken(key, default)
        if value is not default and not isinstance(value, kind):
            raise self._wrong(key, value, name)
        found: T = value
        return found

    def _taken(self, key: str, default: Any) -> Any:
        value = self._raw.get(key)
        if value is not None:
            return value
        if default is REQUIRED:
            raise UserError(f"{self.where}: has no {key!r}")
        return default

    def _wrong(self, key: str, value: Any, wanted: str) -> UserError:
        return UserError(f"{self.where}: {key} is {_shown(value)}, where {wanted} is wanted")


def _is_same(value: Any, allowed: Any) -> bool:
    # Python treats 0 as equal to False and 1 to True, JSON does not.
    return type(value) is type(allowed) and bool(value == allowed)


def _shown(value: Any) -> str:
    return reprlib.repr(value)


def kind_of(value: object) -> str:
    """The type of a JSON value in words, such as "a list"."""
    names = {"NoneType": "null", "bool": "a truth value", "int": "a number", "float": "a number", "str": "a text"}
    return (names | {"list": "a list", "dict": "an object"}).get(type(value).__name__, type(value).__name__)
