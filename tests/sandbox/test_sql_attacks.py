"""Queries that try to write, to read other files, to take all memory or all time: each ends with its reason."""

import hashlib
import os
import shutil
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from babyllm.errors import UserError
from babyllm.sandbox import QueryLimits, QueryResult, Sandbox

NUMBERS = "WITH RECURSIVE r(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM r)"
DOUBLED = "WITH RECURSIVE r(x) AS (SELECT 'ab' UNION ALL SELECT x || x FROM r)"
# Each of these tables is the square of the one before.
SQUARES = ", ".join(
    ["t0 AS (SELECT 1 AS x)", *(f"t{i + 1} AS (SELECT p.x FROM t{i} AS p, t{i} AS q)" for i in range(22))]
)

FORBIDDEN = {
    "ATTACH '{other}' AS other": "ATTACH",
    "DETACH main": "DETACH",
    "PRAGMA query_only = 0": "PRAGMA",
    "PRAGMA table_info(person)": "PRAGMA",
    "SELECT * FROM pragma_database_list": "virtual tables",
    "VACUUM INTO '{new}'": "ATTACH",
    "VACUUM": "ATTACH",
    "INSERT INTO person(id) VALUES (99)": "INSERT",
    "INSERT INTO person(id) VALUES (99) RETURNING id": "INSERT",
    "WITH a AS (SELECT 1) DELETE FROM person": "DELETE",
    "UPDATE person SET age = 0": "UPDATE",
    "REPLACE INTO person(id) VALUES (1)": "INSERT",
    "DROP TABLE person": "DROP",
    "CREATE TABLE copied AS SELECT * FROM person": "CREATE",
    "CREATE TEMP TABLE copied(a)": "CREATE",
    "CREATE VIRTUAL TABLE stolen USING fts5(a)": "CREATE",
    "ALTER TABLE person RENAME TO p": "",
    "REINDEX": "",
    "ANALYZE": "",
    "BEGIN EXCLUSIVE": "transactions",
    "SAVEPOINT a": "SAVEPOINT",
    "SELECT load_extension('{other}')": "function load_extension",
    "SELECT readfile('{other}')": "",
    "SELECT writefile('{new}', 'text')": "",
    "SELECT edit('text', 'touch {new}')": "",
    "SELECT fts3_tokenizer('simple', x'00')": "function fts3_tokenizer",
    "SELECT * FROM fts5vocab": "",
    "SELECT text FROM note": "virtual tables",
    "SELECT value FROM json_each('[1]')": "virtual tables",
    "SELECT * FROM dbstat": "",
    "SELECT * FROM sqlite_dbpage": "",
    "SELECT value FROM generate_series(1, 9)": "",
    "SELECT * FROM csv('{other}')": "",
    "SELECT bytes FROM noise": "function randomblob",
    "SELECT zeroblob(1000000000)": "function zeroblob",
    "SELECT sqlite_compileoption_get(0)": "function sqlite_compileoption_get",
    "EXPLAIN DELETE FROM person": "DELETE",
    "SELECT 1; SELECT 2": "several statements",
    "SELECT 1; DROP TABLE person": "several statements",
}


@pytest.fixture(scope="module")
def limited() -> Iterator[Sandbox]:
    """A sandbox with little of everything, for what never ends."""
    with Sandbox(QueryLimits(seconds=1, memory_bytes=32 << 20, rows=50, answer_bytes=100_000)) as opened:
        yield opened


def test_nothing_but_reading_is_allowed(sandbox: Sandbox, database: Path, tmp_path: Path) -> None:
    """Whatever writes, opens another file or leaves SQL is refused; no file changes or appears."""
    other = tmp_path / "other.sqlite"
    shutil.copy(database, other)
    before = {path: hashlib.sha256(path.read_bytes()).digest() for path in (database, other)}
    for query, reason in FORBIDDEN.items():
        result = sandbox.query(database, query.format(other=other, new=tmp_path / "new"))
        assert result.reason and not result.rows, query
        # Some of these are not in every build of SQLite, and are then unknown instead.
        assert result.kind in ("not allowed", "no such function", "no such table", "syntax"), (query, result.reason)
        assert not reason or result.reason == f"not allowed: {reason}", (query, result.reason)
    assert {path: hashlib.sha256(path.read_bytes()).digest() for path in before} == before
    assert [path.name for path in tmp_path.iterdir()] == [other.name] and len(list(database.parent.iterdir())) == 1
    assert sandbox.query(database, "SELECT count(*) FROM adult").rows == ((29,),)


BOMBS = {
    "time": (
        f"{NUMBERS} SELECT count(*) FROM r",
        "SELECT count(*) FROM " + ", ".join(f"person AS p{i}" for i in range(9)),
        "SELECT 1 FROM " + ", ".join(f"person AS p{i}" for i in range(9)) + " WHERE p0.id < 0 + p8.id * 0",
        f"WITH {SQUARES} SELECT count(*) FROM t22",
    ),
    "memory": (
        f"{DOUBLED} SELECT max(length(x)) FROM r",
        f"{NUMBERS} SELECT group_concat(x) FROM r",
        f"{NUMBERS} SELECT x FROM r ORDER BY x DESC",
        "SELECT printf('%.*c', 2000000000, 'x')",
        "SELECT printf('%2000000000d', 1), hex(printf('%30000000d', 1))",
        "SELECT length(replace(replace(replace(hex(1000000), '0', '{0}'), '0', '{0}'), '0', '{0}'))",
    ),
    "answer": (
        f"{NUMBERS} SELECT x FROM r",
        "SELECT printf('%90000d', 1), printf('%90000d', 1)",
        "SELECT printf('%.*c', 5000000, 'x')",
    ),
}


@pytest.mark.parametrize("kind", BOMBS)
def test_bombs_end_and_the_next_query_runs(limited: Sandbox, database: Path, kind: str) -> None:
    """A query that would take all time, memory or rows ends with a reason for it, or with few rows."""
    for bomb in BOMBS[kind]:
        result = limited.query(database, bomb.replace("{0}", "0" * 4000))
        assert result.kind in ("timeout", "memory", "too large", "too many rows") or _is_small(result), result.reason
        assert limited.query(database, "SELECT 1").rows == ((1,),)


def _is_small(result: QueryResult) -> bool:
    return not result.reason and len(result.rows) <= 50 and len(repr(result.rows)) <= 100_000


def test_patterns_that_backtrack_end(limited: Sandbox, database: Path) -> None:
    """LIKE and GLOB with thousands of wildcards end, by themselves or at the deadline."""
    for pattern in ("%a" * 5000 + "b", "%_" * 5000 + "b", "%a%_" * 3000):
        like = f"SELECT printf('%.*c', 60000, 'a') LIKE '{pattern}'"
        for query in (like, like.replace("LIKE", "GLOB").replace("%a", "*a").replace("%_", "*?")):
            result = limited.query(database, query)
            assert result.reason in ("timeout", "memory") or result.rows or result.kind in ("too large", "error")


def test_a_deep_or_long_query_is_an_error(sandbox: Sandbox, database: Path) -> None:
    """Nesting without end, thousands of terms and megabytes of text are refused with a reason."""
    deep = (
        "(" * 5000 + "1" + ")" * 5000,
        "NOT " * 20_000 + "1",
        " + ".join("1" * 20_000),
        "~" * 50_000 + "1",
    )
    for text in (*deep, "'" + "x" * 100_001 + "'", " UNION ALL SELECT ".join("1" * 4000)):
        result = sandbox.query(database, f"SELECT {text}")
        assert result.kind in ("error", "syntax", "memory"), (text[:20], result.reason)
    assert sandbox.query(database, "SELECT 1").rows == ((1,),)


def test_odd_texts_are_errors(sandbox: Sandbox, database: Path) -> None:
    """NUL, half of a surrogate pair, no statement, an open quote and a parameter each have a reason."""
    for query in (
        "SELECT '\0'",
        "SELECT '\ud800'",
        "",
        "  ;",
        "-- nothing",
        "SELECT 'open",
        "SELECT ?",
        "你好",
        "\x01",
    ):
        assert sandbox.query(database, query).kind in ("syntax", "error"), query
    assert sandbox.query(database, "SELECT nope FROM person").reason == "no such column: nope"
    assert sandbox.query(database, "SELECT 1 FROM nope").kind == "no such table"
    assert sandbox.query(database, "SELEC 1").kind == "syntax"


def test_odd_values_are_plain_values(sandbox: Sandbox, database: Path) -> None:
    """Large integers, infinities, NULL, bytes and texts that are not UTF-8 come back as Python's values."""
    query = (
        "SELECT 9223372036854775807, 9223372036854775807 + 1, 9e999, -9e999, NULL, x'00ff', 0.1, '', 'a''b\U0001f600'"
    )
    expected = (2**63 - 1, 2.0**63, float("inf"), float("-inf"), None, b"\x00\xff", 0.1, "", "a'b\U0001f600")
    assert sandbox.query(database, query).rows == (expected,)
    assert sandbox.query(database, "SELECT name, data FROM person WHERE id = 43").rows == (("a\\xffb", b""),)
    result = sandbox.query(database, 'SELECT name AS "n\n", name FROM person WHERE id = 42')
    assert result.columns == ("n\n", "name") and result.rows == (("王伟", "王伟"),)


def test_limits_of_rows_and_size_are_exact(database: Path) -> None:
    """As many rows as the limit come back, one more is refused; sizes are those of the rows in JSON."""
    with Sandbox(QueryLimits(rows=43, answer_bytes=1000)) as sandbox:
        assert len(sandbox.query(database, "SELECT id FROM person").rows) == 43
        result = sandbox.query(database, "SELECT 1 UNION ALL SELECT id FROM person")
        assert result.reason == "too many rows: more than 43"
        assert sandbox.query(database, f"SELECT '{'x' * 994}'").rows
        assert sandbox.query(database, f"SELECT '{'x' * 995}'").kind == "too large"


def test_files_that_are_not_databases_are_the_files_fault(sandbox: Sandbox, database: Path, tmp_path: Path) -> None:
    """A missing file, a folder, another format, a damaged file and one in use each have a reason that says so."""
    text, damaged, used = tmp_path / "a.txt", tmp_path / "b.sqlite", tmp_path / "c.sqlite"
    text.write_text("SELECT 1")
    damaged.write_bytes(database.read_bytes()[:5000])
    for path in (tmp_path / "none.sqlite", tmp_path, text, damaged):
        assert sandbox.query(path, "SELECT count(*) FROM person").kind == "database", path
    with closing(sqlite3.connect(used)) as connection:
        connection.execute("PRAGMA journal_mode = WAL").close()
        connection.execute("CREATE TABLE a(b)")
        assert "c.sqlite-wal" in sandbox.query(used, "SELECT 1").reason
    assert sandbox.query(used, "SELECT count(*) FROM a").rows == ((0,),)
    assert not list(tmp_path.glob("c.sqlite-*"))


@pytest.mark.skipif(os.name == "nt", reason="needs permission for links")
def test_a_link_is_the_file_it_names(sandbox: Sandbox, database: Path, tmp_path: Path) -> None:
    """A link to a database is read as that database; a link to another file is not one."""
    (tmp_path / "good.sqlite").symlink_to(database)
    (tmp_path / "bad.sqlite").symlink_to("/etc/passwd")
    assert sandbox.query(tmp_path / "good.sqlite", "SELECT count(*) FROM visit").rows == ((60,),)
    assert sandbox.query(tmp_path / "bad.sqlite", "SELECT 1").reason == "database: not an SQLite file"


def test_threads_share_a_pool(database: Path) -> None:
    """Queries of several threads run at the same time, some of them bombs, and each thread has its own answers."""
    found: dict[int, list[QueryResult]] = {}
    with Sandbox(QueryLimits(seconds=1), workers=3) as sandbox:

        def ask(number: int) -> None:
            bomb = f"{NUMBERS} SELECT count(*) FROM r" if number % 4 == 0 else f"SELECT {number}"
            found[number] = [sandbox.query(database, query) for query in (bomb, f"SELECT {number}")]

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for number, (first, second) in found.items():
        assert second.rows == ((number,),)
        assert first.reason == "timeout" if number % 4 == 0 else first.rows == ((number,),)


def test_impossible_limits_are_refused() -> None:
    """A limit out of its range, and a pool without processes, are a user's mistake."""
    for limits, workers in ((QueryLimits(seconds=0), 1), (QueryLimits(rows=0), 1), (QueryLimits(), 0)):
        with pytest.raises(UserError, match="must be"):
            Sandbox(limits, workers)


def test_a_closed_sandbox_starts_again(database: Path) -> None:
    """After `close`, no process is left, and the next query starts one."""
    sandbox = Sandbox()
    assert sandbox.query(database, "SELECT 1").rows == ((1,),)
    sandbox.close()
    sandbox.close()
    assert sandbox.query(database, "SELECT 2").rows == ((2,),)
    sandbox.close()
