"""Whether a predicted query returns the rows of the expected one, on one database or on each of several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from babyllm.sandbox.row_equality import same_rows
from babyllm.sandbox.sql import Sandbox
from babyllm.sandbox.sql_text import is_ordered, normalised, sql_in

EMPTY = "empty"
OTHER_ROWS = "other rows"


@dataclass(frozen=True)
class Match:
    """What became of a prediction.

    Attributes:
        is_right: whether it returns the expected rows on every database.
        is_exact: whether it is the expected query, apart from spaces, comments, and capitals outside quotes.
        reason: the reason for which it is wrong: "other rows", "empty", or one of `QueryResult.reason`; else empty.
        fault: the reason for which the expected query fails, so that the record must be left out; else empty.
    """

    is_right: bool
    is_exact: bool
    reason: str = ""
    fault: str = ""


def query_match(sandbox: Sandbox, databases: Sequence[Path], prediction: str, expected: str) -> Match:
    """Whether a prediction returns the rows of the expected query.

    The order of rows counts if the outermost expected query has an ORDER BY. The order of columns never counts.

    Args:
        sandbox: where both queries run.
        databases: SQLite files of one schema; the rows must be the same on each.
        prediction: a query, or an answer with one in a fenced block.
        expected: the query that is right.

    Raises:
        UserError: no worker process can be started.
    """
    sql = sql_in(prediction)
    is_exact = normalised(sql) == normalised(expected)
    reason = "" if normalised(sql) else EMPTY
    for database in databases:
        right = sandbox.query(database, expected)
        if right.reason:
            return Match(False, is_exact, fault=right.reason)
        if not reason:
            found = sandbox.query(database, sql)
            is_same = not found.reason and same_rows(found.rows, right.rows, is_ordered(expected))
            reason = found.reason or ("" if is_same else OTHER_ROWS)
    return Match(not reason, is_exact, reason)
