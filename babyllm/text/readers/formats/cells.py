"""The values of a table's columns as Python values; an invalid one does not affect the others.

column -> all at once -> values
       -> one by one, if that fails: the value, a text with U+FFFD, `INVALID`, or None for a type that Python lacks
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa

INVALID = object()
"""The stand-in for a value with text that is not valid UTF-8."""
# What PyArrow raises for a value that Python cannot hold, or of a type that it has not implemented.
_FAULTS = (ArithmeticError, LookupError, NotImplementedError, TypeError, ValueError, pa.ArrowException)


def values(column: Any, errors: str) -> list[Any]:
    """The Python values of a column, one per row; maps become dictionaries.

    Args:
        column: an Arrow array of any type.
        errors: treatment of text that is not valid UTF-8; strict makes it `INVALID`, replace puts U+FFFD into it.
    """
    try:
        # The argument for maps slows the conversion of all other columns down.
        found: list[Any] = column.to_pylist(maps_as_pydicts="lossy") if column.type.num_fields else column.to_pylist()
    except _FAULTS:
        found = [_value(scalar, errors) for scalar in column]
    if errors == "replace":
        found = [value.decode("utf-8", errors) if isinstance(value, bytes) else value for value in found]
    return found


def _value(scalar: Any, errors: str) -> Any:
    try:
        return _spelled(scalar, errors)
    except UnicodeDecodeError:
        return INVALID
    except _FAULTS:
        return None


def _spelled(scalar: Any, errors: str) -> Any:
    kind = scalar.type
    if not scalar.is_valid:
        return None
    if pa.types.is_dictionary(kind):
        return _spelled(scalar.value, errors)
    if pa.types.is_struct(kind):
        return {field.name: _inner(value, errors) for field, value in zip(kind, scalar.values(), strict=True)}
    if pa.types.is_map(kind):
        return {_inner(pair[0], errors): _inner(pair[1], errors) for pair in scalar.values}
    if isinstance(scalar, (pa.ListScalar, pa.LargeListScalar, pa.FixedSizeListScalar)):
        return [_inner(value, errors) for value in scalar.values]
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return scalar.as_buffer().to_pybytes().decode("utf-8", errors)
    return scalar.as_py()


def _inner(scalar: Any, errors: str) -> Any:
    """A value within another one; a type that Python lacks becomes None, and the rest of the outer value is kept."""
    try:
        return _spelled(scalar, errors)
    except UnicodeDecodeError:
        raise
    except _FAULTS:
        return None
