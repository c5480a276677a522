"""The fields of a request's JSON object: each taken by name with its type and range, what is left over refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NoReturn

from babyllm.serve.api.problem import Problem

SHOWN = 40  # characters of a client's own words in a message


def parse_json(body: bytes) -> Any:
    """The value that the body of a request is.

    Raises:
        Problem: it is no JSON, or names a field twice.
    """
    if not body.strip():
        raise Problem(400, "the body is empty: send a JSON object")
    try:
        return json.loads(body.decode(), parse_constant=_refuse_constant, object_pairs_hook=_object)
    except UnicodeDecodeError:
        raise Problem(400, "the body is not UTF-8") from None
    except RecursionError:
        raise Problem(400, "the body is not JSON: it is nested too deeply") from None
    except ValueError as error:
        raise Problem(400, f"the body is not JSON: {str(error)[:200]}") from None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise Problem(400, f"the field {twice[:SHOWN]!r} is given twice", param=twice[:SHOWN])
    return found


class Fields:
    """A JSON object whose fields are taken one by one; null counts as absent."""

    def __init__(self, value: Any, where: str = "") -> None:
        """Begin with all fields.

        Args:
            value: what should be an object.
            where: its place in the request, such as "messages[0]"; empty for the request itself.

        Raises:
            Problem: it is none.
        """
        self._where = where
        if not isinstance(value, dict):
            raise Problem(400, f"{where or 'the body'} is not a JSON object", param=where or None)
        self._left: dict[str, Any] = {name: item for name, item in value.items() if item is not None}

    def take(self, name: str) -> Any:
        """The value of a field, None if it is absent."""
        return self._left.pop(name, None)

    def refuse(self, name: str, wanted: str, code: str | None = None) -> NoReturn:
        """Refuse the value of a field.

        Raises:
            Problem: always.
        """
        place = self.place(name)
        raise Problem(400, f"{place} must be {wanted}", param=place, code=code)

    def place(self, name: str) -> str:
        """How a field is named to the client."""
        return f"{self._where}.{name}" if self._where else name

    def flag(self, name: str) -> bool:
        """A truth value, false if it is absent."""
        value = self.take(name)
        if value is not None and not isinstance(value, bool):
            self.refuse(name, "true or false")
        return bool(value)

    def integer(self, name: str, low: int, high: int) -> int | None:
        """A whole number within both ends; also one that is written with a point, such as 2.0."""
        value = self.take(name)
        if value is None:
            return None
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not is_number or not low <= value <= high or value != int(value):
            self.refuse(name, f"a whole number from {low} to {high}")
        return int(value)

    def drops(self, name: str, value: Any) -> bool:
        """Whether a field has this very value, which then is taken."""
        found = self._left.get(name)
        if found != value or isinstance(found, bool) != isinstance(value, bool):
            return False
        del self._left[name]
        return True

    def names(self) -> list[str]:
        """The fields that are left."""
        return list(self._left)

    def number(self, name: str, low: float, high: float) -> float | None:
        """A number within both ends."""
        value = self.take(name)
        if value is None:
            return None
        # Comparing also refuses infinity, which 1e999 is read as; and whole numbers too large for a float.
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
            self.refuse(name, f"a number from {low:g} to {high:g}")
        return float(value)

    def text(self, name: str) -> str | None:
        """A string of valid Unicode."""
        value = self.take(name)
        if value is None:
            return None
        if not is_text(value):
            self.refuse(name, "a string of valid Unicode")
        return str(value)

    def drop(self, harmless: frozenset[str], neutral: Mapping[str, tuple[Any, ...]]) -> None:
        """Pass over what changes nothing and refuse the rest.

        Args:
            harmless: fields that change nothing whatever their value.
            neutral: fields that change nothing with one of these values.

        Raises:
            Problem: a field is left that would change the result; it is named.
        """
        for name, value in self._left.items():
            if name in harmless or value in neutral.get(name, ()):
                continue
            shown = name if len(name) <= SHOWN else f"{name[:SHOWN]}..."
            allowed = f" (only {json.dumps(neutral[name][0])})" if name in neutral else ""
            raise Problem(
                400, f"{self.place(shown)} is not supported here{allowed}", param=shown, code="unsupported_parameter"
            )


def is_text(value: Any) -> bool:
    """Whether a JSON value is a string without halves of surrogate pairs, which are no characters."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
