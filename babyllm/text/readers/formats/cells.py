"""The values of a table's columns as Python's, of which one that is invalid costs no other.

column -> all at once -> values
       -> one by one, where a value cannot be had: a text with U+FFFD, `INVALID`, or None for a kind that Python lacks
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa

INVALID = object()
"""What stands for a value that holds text that is not valid UTF-8."""
# What PyArrow raises for a value that Python cannot hold; some kinds it says it has not implemented.
_FAULTS = (ArithmeticError, LookupError, NotImplementedError, TypeError, ValueError, pa.ArrowException)


def values(column: Any, errors: str) -> list[Any]:
    """The values of a column; maps become dictionaries.

    Args:
        column: an Arrow array of any type.
        errors: of text that is not valid UTF-8; strict makes such a value `INVALID`, replace puts U+FFFD into it.
    """
    try:
        # To say what becomes of maps takes the fast way from all other columns.
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
    """A value within another one, where a kind that Python lacks is None and does not take the rest with it."""
    try:
        return _spelled(scalar, errors)
    except UnicodeDecodeError:
        raise
    except _FAULTS:
        return None
