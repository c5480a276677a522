"""What a made database is: tables of columns whose kinds say how values are drawn; and its file.

ten_databases.yaml -> load_databases -> Database -> rows_of (seeded) -> write_database -> NAME.sqlite
"""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import date, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import yaml

DATABASES = Path(__file__).with_name("ten_databases.yaml")
Cell = int | float | str | None


class Label(NamedTuple):
    """Names of things, no two alike: one text of each list, joined.

    Attributes:
        firsts: beginnings.
        seconds: ends.
        joiner: text between them.
    """

    firsts: Sequence[str]
    seconds: Sequence[str]
    joiner: str = ""


class Choice(NamedTuple):
    """One of a few texts; the earlier ones are more frequent."""

    values: Sequence[str]


class Number(NamedTuple):
    """A number between two limits, rounded to `digits` after the point; 0 makes integers."""

    low: float
    high: float
    digits: int = 0


class Day(NamedTuple):
    """A date as YYYY-MM-DD, of the years from `first` to `last`."""

    first: int
    last: int


class Ref(NamedTuple):
    """The id of a row of another table."""

    table: str


class Column(NamedTuple):
    """A column and what people call it.

    Attributes:
        name: name in SQL.
        en: name in English.
        zh: name in Chinese.
        kind: kind of its values.
        empty: share of its values that are NULL.
    """

    name: str
    en: str
    zh: str
    kind: Label | Choice | Number | Day | Ref
    empty: float = 0.0


class Table(NamedTuple):
    """A table, whose primary key is `id`, and what people call its rows.

    Attributes:
        name: name in SQL.
        en: name of one row in English.
        plural: name of many rows in English.
        zh: name in Chinese.
        n_rows: number of rows.
        columns: columns besides `id`.
    """

    name: str
    en: str
    plural: str
    zh: str
    n_rows: int
    columns: tuple[Column, ...]

    def of_kind(self, *kinds: type) -> list[Column]:
        """The columns of these kinds, in order."""
        return [column for column in self.columns if isinstance(column.kind, kinds)]


class Database(NamedTuple):
    """A database.

    Attributes:
        name: name of its file.
        held_out: whether no question about it is in the training set.
        tables: its tables; each comes after those that it refers to.
    """

    name: str
    held_out: bool
    tables: tuple[Table, ...]

    def table(self, name: str) -> Table:
        """The table of a name."""
        return next(table for table in self.tables if table.name == name)


def load_databases() -> list[Database]:
    """The ten databases of the sample set, without their rows."""
    groups = yaml.safe_load(DATABASES.read_text(encoding="utf-8"))
    return [
        Database(name, group == "held_out", tuple(_table(*item) for item in tables.items()))
        for group in ("trained_on", "held_out")
        for name, tables in groups[group].items()
    ]


def _table(name: str, facts: dict[str, Any]) -> Table:
    en, plural, zh = facts["names"]
    return Table(name, en, plural, zh, facts["rows"], tuple(_column(*item) for item in facts["columns"].items()))


def _column(name: str, facts: dict[str, Any]) -> Column:
    kinds: dict[str, Callable[[Any], Label | Choice | Number | Day | Ref]] = {
        "label": lambda value: Label(**value),
        "choice": Choice,
        "number": lambda value: Number(*value),
        "day": lambda value: Day(*value),
        "ref": Ref,
    }
    kind = next(make(facts[key]) for key, make in kinds.items() if key in facts)
    return Column(name, facts["en"], facts["zh"], kind, facts.get("empty", 0.0))


Rows = dict[str, list[dict[str, Cell]]]


def rows_of(database: Database, seed: int) -> Rows:
    """The rows of each table, by column; the same ones for the same seed."""
    rng = random.Random(f"{seed} {database.name}")
    rows: Rows = {}
    for table in database.tables:
        columns = {column.name: _values(column, table.n_rows, rows, rng) for column in table.columns}
        rows[table.name] = [
            {"id": i + 1, **{name: values[i] for name, values in columns.items()}} for i in range(table.n_rows)
        ]
    return rows


def _values(column: Column, n: int, rows: Rows, rng: random.Random) -> list[Cell]:
    kind = column.kind
    if isinstance(kind, Label):
        every = [f"{first}{kind.joiner}{second}" for first in kind.firsts for second in kind.seconds]
        return list(rng.sample(every, n))
    values: list[Cell] = [_value(kind, rows, rng) for _ in range(n)]
    return [None if rng.random() < column.empty else value for value in values]


def _value(kind: Choice | Number | Day | Ref, rows: Rows, rng: random.Random) -> Cell:
    if isinstance(kind, Choice):
        return rng.choices(kind.values, weights=range(2 * len(kind.values), len(kind.values), -1))[0]
    if isinstance(kind, Number):
        number = round(rng.uniform(kind.low, kind.high), kind.digits)
        return number if kind.digits else int(number)
    if isinstance(kind, Day):
        first = date(kind.first, 1, 1)
        return (first + timedelta(rng.randrange((date(kind.last + 1, 1, 1) - first).days))).isoformat()
    # The square makes some rows popular and leaves a few without any reference.
    return 1 + int(len(rows[kind.table]) * rng.random() ** 2)


def write_database(path: Path, database: Database, rows: Rows) -> None:
    """Write an SQLite file.

    Raises:
        sqlite3.Error: the file exists with tables of these names, or cannot be written.
    """
    with closing(sqlite3.connect(path)) as connection:
        for table in database.tables:
            connection.execute(_create(table))
            marks = ", ".join("?" * (1 + len(table.columns)))
            connection.executemany(
                f"INSERT INTO {table.name} VALUES ({marks})", [tuple(row.values()) for row in rows[table.name]]
            )
        connection.commit()


def _create(table: Table) -> str:
    lines = ["id INTEGER PRIMARY KEY", *(f"{column.name} {_sql_type(column)}" for column in table.columns)]
    lines += [
        f"FOREIGN KEY ({column.name}) REFERENCES {column.kind.table} (id)"
        for column in table.columns
        if isinstance(column.kind, Ref)
    ]
    return f"CREATE TABLE {table.name} ({', '.join(lines)})"


def _sql_type(column: Column) -> str:
    if isinstance(column.kind, Number):
        return "REAL" if column.kind.digits else "INTEGER"
    return "INTEGER" if isinstance(column.kind, Ref) else "TEXT"
