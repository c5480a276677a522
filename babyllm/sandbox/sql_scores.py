"""Execution accuracy of a file of predictions: JSON lines with a database's name, the right query and a prediction.

predictions.jsonl + databases/ -> query_match per record, several at a time -> SqlScores -> table
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from babyllm.errors import UserError
from babyllm.sandbox.execution import Match, query_match
from babyllm.sandbox.sql import QueryLimits, Sandbox

DATABASE = ("database", "db", "db_id")
EXPECTED = ("sql", "query", "reference", "output")
PREDICTION, ERROR = "prediction", "error"
SUFFIXES = (".sqlite", ".sqlite3", ".db")
MAX_REASONS = 12


@dataclass(frozen=True)
class Scored:
    """A record and what became of its prediction.

    Attributes:
        line: line of the record in its file, from 1.
        record: the record.
        database: name of its database.
        match: what became of the prediction.
    """

    line: int
    record: Mapping[str, Any]
    database: str
    match: Match


@dataclass(frozen=True)
class SqlScores:
    """What became of all predictions of a file.

    Attributes:
        items: the records whose expected query runs, in the order of the file.
        left_out: the records whose expected query fails, which is the data's fault.
    """

    items: tuple[Scored, ...]
    left_out: tuple[Scored, ...]

    @property
    def accuracy(self) -> float:
        """The share of predictions that return the expected rows; 0 without records."""
        return sum(item.match.is_right for item in self.items) / max(1, len(self.items))

    @property
    def exact(self) -> float:
        """The share of predictions that are the expected query; 0 without records."""
        return sum(item.match.is_exact for item in self.items) / max(1, len(self.items))

    @cached_property
    def by_database(self) -> dict[str, tuple[int, int]]:
        """The number of right predictions and of all, for each database by name; the clusters of a standard error."""
        return _shares((item.database, item.match.is_right) for item in self.items)

    def by(self, field: str) -> dict[str, tuple[int, int]]:
        """The number of right predictions and of all, for each value of a field of the records, as text."""
        return _shares((str(item.record.get(field, "")), item.match.is_right) for item in self.items)

    @cached_property
    def reasons(self) -> Counter[str]:
        """How many predictions are wrong for which kind of reason."""
        return Counter(item.match.reason.partition(":")[0] for item in self.items if not item.match.is_right)

    def as_json(self) -> dict[str, Any]:
        """The scores as a JSON value."""
        faults = Counter(item.match.fault.partition(":")[0] for item in self.left_out)
        return {
            "execution_accuracy": self.accuracy,
            "exact_match": self.exact,
            "n": len(self.items),
            "by_database": {name: {"right": right, "n": n} for name, (right, n) in self.by_database.items()},
            "reasons": dict(self.reasons.most_common()),
            "left_out": dict(faults.most_common()),
        }

    def __str__(self) -> str:
        n = len(self.items)
        n_right = sum(item.match.is_right for item in self.items)
        lines = [f"execution accuracy {self.accuracy:.1%} ({n_right} of {n}), exact match {self.exact:.1%}"]
        lines += [f"  {name:<20} {right / count:7.1%} of {count}" for name, (right, count) in self.by_database.items()]
        lines += [f"  wrong, {reason}: {count}" for reason, count in self.reasons.most_common(MAX_REASONS)]
        if self.left_out:
            first = self.left_out[0]
            lines.append(
                f"  left out, as the expected query fails: {len(self.left_out)}; line {first.line}: {first.match.fault}"
            )
        return "\n".join(lines)


def _shares(results: Iterable[tuple[str, bool]]) -> dict[str, tuple[int, int]]:
    right: dict[str, list[bool]] = {}
    for name, is_right in results:
        right.setdefault(name, []).append(is_right)
    return {name: (sum(found), len(found)) for name, found in sorted(right.items())}


def score_predictions(path: Path, databases: Path, limits: QueryLimits | None = None, workers: int = 1) -> SqlScores:
    """The execution accuracy of a file of predictions.

    Args:
        path: JSON lines with the fields `database` (or `db`, `db_id`), `sql` (or `query`, `reference`, `output`) and
            `prediction`.
        databases: folder with `NAME.sqlite` for each database, or a folder NAME with one or more such files, all of
            which must agree. Other endings: `.sqlite3`, `.db`.
        limits: what one query may use.
        workers: number of processes that run queries.

    Raises:
        UserError: the file cannot be read, a record lacks a field, or a database has no file.
    """
    # All records are read first: a mistake in the last one is reported before any work.
    records = [(line, record, *_needed(path, line, record, databases)) for line, record in _records(path)]
    with Sandbox(limits, workers) as sandbox, ThreadPoolExecutor(workers) as pool:

        def scored(item: tuple[int, Mapping[str, Any], str, list[Path], str, str]) -> Scored:
            line, record, name, files, expected, prediction = item
            return Scored(line, record, name, query_match(sandbox, files, prediction, expected))

        items = list(pool.map(scored, records))
    return SqlScores(
        tuple(item for item in items if not item.match.fault), tuple(item for item in items if item.match.fault)
    )


def database_files(databases: Path, name: str) -> list[Path]:
    """The files of a database in a folder; empty if there are none. A name never leads out of the folder."""
    if not name or name.startswith(".") or {"/", "\\", "\0", ":"} & set(name):
        return []
    root = databases.resolve()
    single = [databases / f"{name}{suffix}" for suffix in SUFFIXES]
    files = [file for file in single if file.is_file()] or sorted(
        file for file in (databases / name).glob("*") if file.suffix in SUFFIXES
    )
    return [file for file in files if file.resolve().is_relative_to(root)]


def _records(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            raise UserError(f"{path}, line {number}: not a JSON object; write one record per line") from error
        if not isinstance(record, dict):
            raise UserError(f"{path}, line {number}: not a JSON object; write one record per line")
        yield number, record


def _needed(path: Path, line: int, record: Mapping[str, Any], databases: Path) -> tuple[str, list[Path], str, str]:
    name, expected = (_text(path, line, record, names) for names in (DATABASE, EXPECTED))
    # `babyllm predict` writes an error in place of the prediction of a record that it cannot use.
    is_missing = record.get(PREDICTION, "") is None or (PREDICTION not in record and ERROR in record)
    prediction = "" if is_missing else _text(path, line, record, (PREDICTION,))
    files = database_files(databases, name)
    if not files:
        raise UserError(f"{path}, line {line}: {databases} has no file of the database {name[:80]!r}")
    return name, files, expected, prediction


def _text(path: Path, line: int, record: Mapping[str, Any], names: tuple[str, ...]) -> str:
    name = next((name for name in names if name in record), None)
    if name is None:
        raise UserError(f"{path}, line {line}: the record has no field {' or '.join(names)}")
    if not isinstance(record[name], str):
        raise UserError(f"{path}, line {line}: the field {name} is not a text")
    return str(record[name])
