"""What the tests of the sandbox share: a database with odd values and things that tempt, and an open sandbox."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from babyllm.sandbox import QueryLimits, Sandbox


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite file whose name has characters that addresses quote."""
    path = tmp_path_factory.mktemp("odd") / "a b?mode=rw&c#d%20ü.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(
            """
            CREATE TABLE person(id INTEGER PRIMARY KEY, name TEXT, city TEXT, age INTEGER, score REAL, data BLOB);
            CREATE TABLE visit(id INTEGER PRIMARY KEY, person_id INTEGER REFERENCES person(id), day TEXT, cost REAL);
            CREATE VIEW adult AS SELECT name FROM person WHERE age >= 18;
            CREATE VIEW noise AS SELECT randomblob(8) AS bytes;
            CREATE VIRTUAL TABLE note USING fts5(text);
            INSERT INTO note VALUES ('hello');
            """
        )
        people = [(i, f"P{i % 17}", "ABCD"[i % 4], i * 7 % 60, i / 3, bytes([i])) for i in range(1, 41)]
        people += [(41, None, None, None, None, None), (42, "王伟", "北京", 2**63 - 1, 1e308, b"\xff\x00")]
        connection.executemany("INSERT INTO person VALUES (?, ?, ?, ?, ?, ?)", people)
        connection.execute("INSERT INTO person VALUES (43, CAST(x'61ff62' AS TEXT), '', -1, -0.5, x'')")
        visits = [(i, 1 + i * i % 44, f"2024-{1 + i % 12:02}-01", i * 1.1) for i in range(60)]
        connection.executemany("INSERT INTO visit VALUES (?, ?, ?, ?)", visits)
        connection.commit()
    return path


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    """A sandbox with room enough for honest queries."""
    with Sandbox(QueryLimits(seconds=20)) as opened:
        yield opened
