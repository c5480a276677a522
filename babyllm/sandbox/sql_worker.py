"""The worker process of the SQL sandbox: a program of the standard library alone, which `sql.py` starts by its path.

    stdin, a JSON line per query: file, sql -> stdout, a JSON line per answer: columns and rows, or a reason

What a query can do is limited several times over. The file is opened read-only and immutable, so SQLite neither locks
nor writes; temporary data stay in memory. An authorizer, called while a statement is compiled, allows only to read the
tables of the file and to call functions named here. A handler ends a query at its deadline, and SQLite's heap has a
limit. Where the system has limits for processes, this one cannot write to a file, open many, start a process or use
much more memory. One long instruction escapes the handler; the parent then kills the process.
"""

from __future__ import annotations

import json
import signal
import sqlite3
import sys
import time
from collections.abc import Iterator
from typing import Any

INSTRUCTIONS = 5_000  # of SQLite's virtual machine, between two looks at the clock
OVERHEAD_BYTES = 256 << 20  # for Python itself and an answer on its way, beside SQLite's heap
MAX_FILES = 32
SEPARATOR = ", "
SPARE_SECONDS = 5
ACTIONS = {
    **{sqlite3.SQLITE_ALTER_TABLE: "ALTER TABLE", sqlite3.SQLITE_ANALYZE: "ANALYZE", sqlite3.SQLITE_ATTACH: "ATTACH"},
    **{sqlite3.SQLITE_DELETE: "DELETE", sqlite3.SQLITE_DETACH: "DETACH", sqlite3.SQLITE_INSERT: "INSERT"},
    **{sqlite3.SQLITE_PRAGMA: "PRAGMA", sqlite3.SQLITE_REINDEX: "REINDEX", sqlite3.SQLITE_UPDATE: "UPDATE"},
    **{sqlite3.SQLITE_TRANSACTION: "transactions", sqlite3.SQLITE_SAVEPOINT: "SAVEPOINT"},
}
# A change of the catalogue is how SQLite asks about statements that change the schema, and about virtual tables.
CATALOGUE_ACTIONS = {
    **{sqlite3.SQLITE_INSERT: "CREATE", sqlite3.SQLITE_DELETE: "DROP", sqlite3.SQLITE_UPDATE: "virtual tables"},
}
CREATE_OR_DROP = {
    **{number: "CREATE" for number in (1, 2, 3, 4, 5, 6, 7, 8, sqlite3.SQLITE_CREATE_VTABLE)},
    **{number: "DROP" for number in (10, 11, 12, 13, 14, 15, 16, 17, sqlite3.SQLITE_DROP_VTABLE)},
}
# Functions of numbers, texts, dates, JSON, groups and windows. What makes or reads anything else is not among them.
FUNCTIONS = {
    *("->", "->>", "abs", "acos", "acosh", "asin", "asinh", "atan", "atan2", "atanh", "avg", "ceil", "ceiling"),
    *("char", "coalesce", "concat", "concat_ws", "cos", "cosh", "count", "cume_dist", "current_date", "current_time"),
    *("current_timestamp", "date", "datetime", "degrees", "dense_rank", "exp", "first_value", "floor", "format"),
    *("glob", "group_concat", "hex", "ifnull", "iif", "if", "instr", "json", "json_array", "json_array_length"),
    *("json_extract", "json_group_array", "json_group_object", "json_object", "json_quote", "json_type"),
    *("json_valid", "julianday", "lag", "last_value", "lead", "length", "like", "likelihood", "likely", "ln", "log"),
    *("log10", "log2", "lower", "ltrim", "max", "median", "min", "mod", "nth_value", "ntile", "nullif"),
    *("octet_length", "percent_rank", "percentile", "percentile_cont", "percentile_disc", "pi", "pow", "power"),
    *("printf", "quote", "radians", "random", "rank", "replace", "round", "row_number", "rtrim", "sign", "sin"),
    *("sinh", "soundex", "sqrt", "strftime", "string_agg", "substr", "substring", "sum", "tan", "tanh", "time"),
    *("timediff", "total", "trim", "trunc", "typeof", "unhex", "unicode", "unixepoch", "unlikely", "upper"),
}
CATALOGUE, TEMPORARY = ("sqlite_master", "sqlite_schema"), ("sqlite_temp_master", "sqlite_temp_schema")


class Refused(Exception):
    """The reason for which a query has no rows."""


class Authorizer:
    """What a statement may do: read the tables of the file and call `FUNCTIONS`.

    Attributes:
        tables: names that may be read, in lower case.
        refused: name of the first thing that was denied; empty if there was none.
    """

    def __init__(self, tables: frozenset[str]) -> None:
        self.tables = tables
        self.refused = ""

    def decide(self, action: int, first: str | None, second: str | None, schema: str | None, view: str | None) -> int:
        """SQLite's question about one step of a statement that it compiles: its answer is SQLITE_OK or SQLITE_DENY."""
        if action in (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_RECURSIVE):
            return sqlite3.SQLITE_OK
        if action == sqlite3.SQLITE_READ:
            # No column: rows are counted, perhaps of a subquery, whose name is not that of a table.
            return self._allow(not second or (first or "").lower() in self.tables, f"table {first}")
        if action == sqlite3.SQLITE_FUNCTION:
            return self._allow((second or "").lower() in FUNCTIONS, f"function {second}")
        names = CATALOGUE_ACTIONS if first in (*CATALOGUE, *TEMPORARY) else ACTIONS
        return self._allow(False, names.get(action) or CREATE_OR_DROP.get(action) or f"action {action}")

    def _allow(self, is_allowed: bool, what: str) -> int:
        if not is_allowed:
            self.refused = self.refused or what
        return sqlite3.SQLITE_OK if is_allowed else sqlite3.SQLITE_DENY


def answer(request: dict[str, Any], limits: dict[str, Any]) -> str:
    """The JSON text of the columns and rows of a query, or of the reason for none.

    Args:
        request: the address of the file as `uri`, and the query as `sql`.
        limits: the fields of `QueryLimits` by name.
    """
    try:
        return "".join(_answered(request["uri"], request["sql"], limits))
    except Refused as error:
        return _reason(str(error))
    except MemoryError:
        return _reason("memory")


def _reason(text: str) -> str:
    return json.dumps({"reason": text[:500]})


def _answered(uri: str, sql: str, limits: dict[str, Any]) -> Iterator[str]:
    deadline = time.monotonic() + limits["seconds"]
    _limit_processor(limits["seconds"])
    authorizer = None
    connection = None
    try:
        connection = _open(uri, limits, deadline)
        authorizer = Authorizer(_tables(connection))
        connection.set_authorizer(authorizer.decide)
        cursor = connection.execute(sql)
        if cursor.description is None:
            raise Refused("syntax: not a query")
        yield '{"columns": ' + json.dumps([column[0] for column in cursor.description]) + ', "rows": ['
        yield from _rows(cursor, limits, deadline)
        yield "]}"
    except (sqlite3.Error, sqlite3.Warning, ValueError, OverflowError) as error:
        is_late = time.monotonic() > deadline
        raise Refused(_why(error, authorizer.refused if authorizer else "", is_late, connection)) from None
    finally:
        if connection is not None:
            connection.set_progress_handler(None, 0)
            connection.close()


def _open(uri: str, limits: dict[str, Any], deadline: float) -> sqlite3.Connection:
    connection = sqlite3.connect(uri, uri=True, isolation_level=None, cached_statements=0)
    connection.text_factory = _text
    connection.set_progress_handler(lambda: time.monotonic() > deadline, INSTRUCTIONS)
    if sys.version_info >= (3, 11):
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, limits["memory_bytes"] // 4)
        connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
    for setting in (
        *(f"hard_heap_limit = {limits['memory_bytes']}", "query_only = 1", "temp_store = MEMORY"),
        *("trusted_schema = 0", "cell_size_check = 1", "mmap_size = 0"),
    ):
        connection.execute(f"PRAGMA {setting}").close()
    return connection


def _tables(connection: sqlite3.Connection) -> frozenset[str]:
    """The names of all tables and views that a query may read, in lower case."""
    rows = connection.execute("SELECT name FROM sqlite_master WHERE type IN ('table', 'view')")
    return frozenset([*(str(name).lower() for (name,) in rows), *CATALOGUE])


def _text(value: bytes) -> str:
    # Bytes that are not UTF-8 stay distinct and can be printed.
    return value.decode("utf-8", "backslashreplace")


def _rows(cursor: sqlite3.Cursor, limits: dict[str, Any], deadline: float) -> Iterator[str]:
    size = 0
    for number, row in enumerate(cursor):
        if number == limits["rows"]:
            raise Refused(f"too many rows: more than {limits['rows']}")
        if time.monotonic() > deadline:
            raise Refused("timeout")
        # Texts are counted before they are copied into JSON, which may take six bytes for one.
        is_short = size + sum(len(cell) for cell in row if isinstance(cell, str | bytes)) <= limits["answer_bytes"]
        text = _written(row) if is_short else ""
        size += len(text) + len(SEPARATOR)
        if not is_short or size > limits["answer_bytes"]:
            raise Refused(f"too large: more than {limits['answer_bytes']} bytes")
        yield SEPARATOR + text if number else text


def _written(row: tuple[Any, ...]) -> str:
    return json.dumps([{"hex": cell.hex()} if isinstance(cell, bytes) else cell for cell in row])


def _why(error: Exception, refused: str, is_late: bool, connection: sqlite3.Connection | None) -> str:
    text = " ".join(str(error).split())
    if refused:
        return f"not allowed: {refused}"
    if text == "interrupted" and is_late:
        return "timeout"
    if "one statement at a time" in text:
        return "not allowed: several statements"
    if connection is None or text in ("file is not a database", "database disk image is malformed"):
        return f"database: {text}"
    if "out of memory" in text:
        return "memory"
    if "too big" in text:
        return "too large: a value"
    if "syntax error" in text or "incomplete input" in text or "unrecognized token" in text or "null char" in text:
        return f"syntax: {text}"
    return text if text.startswith("no such ") else f"error: {text}"


def _limit_process(memory_bytes: int) -> None:
    """Take from this process what no query needs, as far as the system can."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what Ctrl-C ends
    try:
        import resource
    except ImportError:  # Windows
        return
    limits = {
        "RLIMIT_AS": 2 * memory_bytes + OVERHEAD_BYTES,
        "RLIMIT_FSIZE": 0,
        "RLIMIT_CORE": 0,
        "RLIMIT_NOFILE": MAX_FILES,
        "RLIMIT_NPROC": 0,
    }
    for name, limit in limits.items():
        try:
            resource.setrlimit(getattr(resource, name), (limit, limit))
        except (AttributeError, ValueError, OSError):
            continue  # not on this system, or already lower


def _limit_processor(seconds: float) -> None:
    """Let the system end this process some time after the deadline, in case the parent is gone."""
    try:
        import resource

        usage = resource.getrusage(resource.RUSAGE_SELF)
        limit = int(usage.ru_utime + usage.ru_stime + seconds) + SPARE_SECONDS
        resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.RLIM_INFINITY))
    except (ImportError, ValueError, OSError):
        return


def main() -> None:
    """Answer queries until the parent closes the pipe; the command line has the limits as JSON."""
    limits = json.loads(sys.argv[1])
    _limit_process(limits["memory_bytes"])
    print("{}", flush=True)  # ready: from now on the clock of a query is its own
    for line in sys.stdin:
        print(answer(json.loads(line), limits), flush=True)


if __name__ == "__main__":
    main()
