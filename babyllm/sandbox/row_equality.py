"""Whether two results have the same rows, whatever the order of their columns, with a tolerance for floats.

    columns -> pairs of columns that may correspond -> one assignment under which all rows agree

Equal as in the test-suite evaluation of Spider (Zhong et al. 2020, section 3): results without rows are equal; one
permutation of the columns must fit all rows; rows are a multiset, or a list if their order counts. Added to this is
the tolerance. Repeated rows count, as they do there when DISTINCT is kept.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from babyllm.sandbox.sql import Value

Row = tuple[Value, ...]
TOLERANCE = 1e-6  # relative; and absolute near zero, for sums of floats in another order
NEAR_ZERO = 1e-9
MAX_TRIALS = 500  # assignments of columns that are tried; only results made for it need more


def same_rows(found: Sequence[Row], expected: Sequence[Row], in_order: bool = False) -> bool:
    """Whether two results are equal.

    Args:
        found: rows of the query in question.
        expected: rows that are right.
        in_order: whether the order of the rows counts.
    """
    if len(found) != len(expected):
        return False
    if not expected:
        return True
    width = len(expected[0])
    if len(found[0]) != width:
        return False
    theirs, ours = list(zip(*found, strict=True)), list(zip(*expected, strict=True))
    fits = [
        [j for j in range(width) if _same_list([(x,) for x in theirs[j]], [(x,) for x in ours[i]], in_order)]
        for i in range(width)
    ]
    return _assign(_Columns(theirs, ours, fits, in_order), [], [0])


class _Columns:
    """Two results by column, and which of the first may be the i-th of the second."""

    def __init__(self, found: list[Row], expected: list[Row], fits: list[list[int]], in_order: bool) -> None:
        self.found, self.expected, self.fits, self.in_order = found, expected, fits, in_order

    def agree(self, chosen: list[int]) -> bool:
        """Whether the first columns expected and those chosen for them have the same rows."""
        found = list(zip(*(self.found[j] for j in chosen), strict=True))
        return _same_list(found, list(zip(*self.expected[: len(chosen)], strict=True)), self.in_order)


def _assign(columns: _Columns, chosen: list[int], trials: list[int]) -> bool:
    """Extend an assignment of columns to all of them, by depth-first search."""
    if len(chosen) == len(columns.expected):
        return True
    tried: list[Row] = []
    for j in columns.fits[len(chosen)]:
        if j in chosen or columns.found[j] in tried:  # an equal column would fail as well
            continue
        tried.append(columns.found[j])
        trials[0] += 1
        if trials[0] > MAX_TRIALS:
            return False
        if columns.agree([*chosen, j]) and _assign(columns, [*chosen, j], trials):
            return True
    return False


def _same_list(found: list[Row], expected: list[Row], in_order: bool) -> bool:
    if in_order:
        return all(map(_same_row, found, expected))
    left, wanted = Counter(found), Counter(expected)
    # What is exactly equal cancels; only rows that differ in the last digits of a float are left to be paired.
    rest = sorted((wanted - left).elements(), key=_sort_key)
    others = sorted((left - wanted).elements(), key=_sort_key)
    for row in rest:
        match = next((i for i, other in enumerate(others) if _same_row(other, row)), None)
        if match is None:
            return False
        del others[match]
    return True


def _same_row(found: Row, expected: Row) -> bool:
    return all(map(_same_value, found, expected))


def _same_value(found: Value, expected: Value) -> bool:
    if isinstance(found, float) or isinstance(expected, float):
        if not isinstance(found, int | float) or not isinstance(expected, int | float):
            return False
        return math.isclose(found, expected, rel_tol=TOLERANCE, abs_tol=NEAR_ZERO)
    return type(found) is type(expected) and found == expected


def _sort_key(row: Row) -> list[tuple[str, float, str]]:
    return [
        (("", value, "") if isinstance(value, int | float) else (type(value).__name__, 0.0, str(value)))
        for value in row
    ]
