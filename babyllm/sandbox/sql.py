"""A pool of worker processes that run untrusted SQL on SQLite files: read-only, within limits of time and memory.

    query -> a worker that is free -> a line of JSON -> QueryResult
                                   -> no line in time: the process is killed, and the next query starts another

What each system adds: Linux and macOS limit the process itself (its memory, files, children, processor time; macOS
does not enforce the limit of memory). Windows does not, so there the limits are those of SQLite and the clock.
"""

from __future__ import annotations

import json
import queue
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from babyllm.config.values import Count, Few, PositiveSeconds, check
from babyllm.errors import UserError
from babyllm.sandbox import sql_worker
from babyllm.sandbox.worker_process import WorkerProcess

Value = None | int | float | str | bytes
MAX_SQL_BYTES = 100_000
HEADER = b"SQLite format 3\0"


@dataclass(frozen=True)
class QueryLimits:
    """How much one query may use.

    Attributes:
        seconds: time on the clock.
        memory_bytes: memory of SQLite; the process as a whole has about twice as much and 256 MiB more.
        rows: number of rows.
        answer_bytes: size of the rows, written as JSON.
    """

    seconds: PositiveSeconds = 5.0
    memory_bytes: Count = 128 << 20
    rows: Count = 10_000
    answer_bytes: Count = 8 << 20


@dataclass(frozen=True)
class QueryResult:
    r"""The rows of a query, or the reason for none.

    Attributes:
        columns: names of the columns.
        rows: tuples of None, int, float, str and bytes. Bytes of a text that are not UTF-8 are written as `\xff`.
        reason: empty if the query ran. Otherwise a kind, and after a colon what it was: "timeout", "memory", "too many
            rows: ...", "too large: ...", "not allowed: ATTACH", "syntax: ...", "no such table: ...", "no such column:
            ...", "error: ...", "crash: ...", "database: ..."; the last is the file's fault, not the query's.
    """

    columns: tuple[str, ...] = ()
    rows: tuple[tuple[Value, ...], ...] = ()
    reason: str = ""

    @property
    def kind(self) -> str:
        """The reason up to its colon, for counting."""
        return self.reason.partition(":")[0]


class Sandbox:
    """Runs queries in worker processes, which serve many queries each; a context manager, safe for use by threads.

        with Sandbox() as sandbox:
            result = sandbox.query("shop.sqlite", "SELECT count(*) FROM orders")

    Args:
        limits: what one query may use.
        workers: number of processes, which is how many queries run at a time; further ones wait. A process starts when
            it is first needed.

    Raises:
        UserError: a limit is out of its range, or there are no workers.
    """

    def __init__(self, limits: QueryLimits | None = None, workers: Few = 1) -> None:
        self.limits = limits or QueryLimits()
        check(self.limits)
        if workers < 1:
            raise UserError(f"workers={workers}: must be at least 1")
        self._idle: queue.LifoQueue[WorkerProcess] = queue.LifoQueue()
        # Isolated, and without packages: the worker needs the standard library alone and starts in 20 ms.
        command = [sys.executable, "-I", "-S", str(sql_worker.__file__), json.dumps(asdict(self.limits))]
        for _ in range(workers):
            self._idle.put(WorkerProcess(command))
        self._workers = list(self._idle.queue)

    def query(self, database: str | Path, sql: str) -> QueryResult:
        """The rows of one statement, or the reason for none.

        Args:
            database: the path of an SQLite file. It is read as it is on disk: one that another program has open for
                writing, with changes still in a journal beside it, is refused.
            sql: the statement, of at most 100,000 bytes.

        Raises:
            UserError: no worker process can be started.
        """
        try:
            size = len(sql.encode())
        except UnicodeEncodeError:
            return QueryResult(reason="syntax: not valid text")
        if size > MAX_SQL_BYTES:
            return QueryResult(reason=f"syntax: more than {MAX_SQL_BYTES} bytes")
        try:
            uri = _address(Path(database))
        except (OSError, ValueError) as error:
            return QueryResult(reason=f"database: {getattr(error, 'strerror', None) or error}")
        worker = self._idle.get()
        try:
            request = {"uri": uri, "sql": sql}
            return _result(worker.answer(request, self.limits.seconds, self.limits.answer_bytes))
        finally:
            self._idle.put(worker)

    def close(self) -> None:
        """End the processes; a query that comes later starts one again."""
        for worker in self._workers:
            worker.stop()

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _address(database: Path) -> str:
    """The address by which SQLite opens a file without writing or locking anything.

    Raises:
        ValueError: it is not an SQLite file, or its newest changes are in another file.
        OSError: it cannot be read.
    """
    path = database.resolve(strict=True)
    if not path.is_file():  # reading from a pipe would wait without end
        raise ValueError("not an SQLite file")
    with path.open("rb") as file:
        if file.read(len(HEADER)) != HEADER:
            raise ValueError("not an SQLite file")
    for suffix in ("-wal", "-journal"):
        beside = path.with_name(path.name + suffix)
        if beside.exists() and beside.stat().st_size:
            raise ValueError(f"in use: it has changes in {beside.name}; close the program that writes it")
    name = path.as_posix()
    return f"file:{'' if name.startswith('/') else '/'}{quote(name)}?mode=ro&immutable=1"


def _result(answer: dict[str, Any]) -> QueryResult:
    rows = (
        tuple(bytes.fromhex(cell["hex"]) if isinstance(cell, dict) else cell for cell in row)
        for row in answer.get("rows", ())
    )
    return QueryResult(tuple(answer.get("columns", ())), tuple(rows), answer.get("reason", ""))
