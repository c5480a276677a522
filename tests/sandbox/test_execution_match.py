"""Rows as plain SQLite returns them, when two results are equal, and the accuracy of a file of predictions."""

import json
import random
import sqlite3
from collections.abc import Callable
from contextlib import closing
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from babyllm.errors import UserError
from babyllm.sandbox import Sandbox, query_match, score_predictions
from babyllm.sandbox.row_equality import same_rows
from babyllm.sandbox.sql_text import is_ordered, normalised, sql_in

COLUMNS = {
    "p": ("p.id", "p.name", "p.city", "p.age", "p.score", "p.data"),
    "v": ("v.id", "v.person_id", "v.day", "v.cost"),
}


def random_query(rng: random.Random) -> str:
    """A query of one table or a join with drawn expressions, conditions, groups, order and limit."""
    is_joined = rng.random() < 0.4
    columns = [*COLUMNS["p"], *(COLUMNS["v"] if is_joined else ())]

    def expression(depth: int = 2) -> str:
        if depth == 0 or rng.random() < 0.4:
            return rng.choice([*columns, str(rng.randint(-5, 50)), "'B'", "NULL", "2.5"])
        forms = (
            *("{} + {}", "{} * {}", "coalesce({}, {})", "CASE WHEN {} THEN {} END", "{} || {}", "max({}, {})"),
            *("substr({}, 1, 2) || {}", "round({}, 2) - {}", "nullif({}, {})", "typeof({}) || lower({})"),
        )
        return rng.choice(forms).format(expression(depth - 1), expression(depth - 1))

    def condition() -> str:
        forms = (
            *("{} > {}", "{} = {}", "{} IS NOT {}", "{} BETWEEN {} AND 40", "{} LIKE {} || '%'", "{} IN ({}, 'A')"),
            *("NOT {} < {}", "{} < (SELECT avg(age) FROM person WHERE {})"),
        )
        return rng.choice(forms).format(expression(1), expression(1))

    tables = "person AS p" + (
        f" {rng.choice(('JOIN', 'LEFT JOIN'))} visit AS v ON v.person_id = p.id" if is_joined else ""
    )
    where = " WHERE " + f" {rng.choice(('AND', 'OR'))} ".join(condition() for _ in range(rng.randint(1, 2)))
    key = rng.choice(columns)
    if rng.random() < 0.4:
        groups = rng.choice(
            ("count(*)", "sum(p.age)", "avg(p.score)", "min({})", "group_concat({}, ',')", "total(p.age)")
        )
        return f"SELECT {key}, {groups.format(expression(1))} FROM {tables}{where} GROUP BY {key} HAVING count(*) > 1"
    distinct = rng.choice(("", "DISTINCT "))
    query = f"SELECT {distinct}{expression()} AS a, {expression()} AS b, {key} FROM {tables}{where}"
    if rng.random() < 0.2:
        query += f" {rng.choice(('UNION', 'EXCEPT', 'INTERSECT'))} {query}"
    return query + rng.choice(("", " ORDER BY 1, 2, 3", " ORDER BY 3 DESC, 1, 2 LIMIT 7 OFFSET 2"))


def test_rows_are_those_of_plain_sqlite(sandbox: Sandbox, database: Path) -> None:
    """300 random queries return exactly the columns and rows, or fail, as with Python's sqlite3."""
    rng = random.Random(1)
    n_rows = 0
    with closing(sqlite3.connect(database)) as connection:
        connection.text_factory = lambda value: value.decode("utf-8", "backslashreplace")
        for _ in range(300):
            query = random_query(rng)
            result = sandbox.query(database, query)
            try:
                cursor = connection.execute(query)
                expected = cursor.fetchall()
            except sqlite3.Error as error:
                assert str(error) in result.reason, query
                continue
            assert result.reason == "" and list(result.rows) == expected, query
            assert [column[0] for column in cursor.description] == list(result.columns)
            n_rows += len(expected)
    assert n_rows > 1000


VALUES = st.one_of(st.integers(0, 2), st.sampled_from([0.5, 1.0, 2.0]), st.sampled_from(["a", "1", None, b"a"]))


def _plainly_equal(found: list[Any], expected: list[Any], in_order: bool) -> bool:
    """The definition, by trying every permutation of the columns; for values without rounding."""
    if not found or not expected or len(found[0]) != len(expected[0]):
        return found == expected == []
    for order in permutations(range(len(expected[0]))):
        rows = [tuple(row[i] for i in order) for row in found]
        if rows == expected if in_order else sorted(rows, key=repr) == sorted(expected, key=repr):
            return True
    return False


@given(st.data(), st.integers(1, 3), st.booleans())
def test_equality_is_that_of_the_definition(data: st.DataObject, width: int, in_order: bool) -> None:
    """Results are equal exactly if some permutation of columns makes their rows equal, as a list or as a multiset."""
    values = VALUES.map(lambda value: float(value) if isinstance(value, int) else value)  # so that repr orders them
    expected = data.draw(st.lists(st.tuples(*[values] * width), max_size=5))
    if data.draw(st.booleans()):
        rows = data.draw(st.permutations(expected))
        order = data.draw(st.permutations(range(width)))
        found = [tuple(row[i] for i in order) for row in rows]
    else:
        found = data.draw(st.lists(st.tuples(*[values] * width), max_size=5))
    assert same_rows(found, expected, in_order) == _plainly_equal(found, expected, in_order)


@pytest.mark.parametrize(
    ("found", "expected", "is_same"),
    [
        ([(0.1 + 0.2,)], [(0.3,)], True),
        ([(1e15 + 1,)], [(1e15,)], True),
        ([(1.0001,)], [(1.0,)], False),
        ([(3,)], [(3.0,)], True),
        ([(2**53 + 1,)], [(2**53,)], False),
        ([(float("inf"),)], [(float("inf"),)], True),
        ([("3",)], [(3,)], False),
        ([(None,)], [(0,)], False),
        ([(None,)], [(None,)], True),
        ([(b"a",)], [("a",)], False),
        ([(1,), (1,)], [(1,)], False),
        ([(1,), (1,), (2,)], [(1,), (2,), (2,)], False),
        ([(1, 2)], [(1,)], False),
        ([("a", 1), ("b", 2)], [(2, "b"), (1, "a")], True),
        ([("a", 1), ("b", 2)], [(1, "b"), (2, "a")], False),
        ([(1.0, "x"), (1.0000000001, "y")], [(1.0000000001, "x"), (1.0, "y")], True),
        ([(0.0, 5.0), (1e-12, 6.0)], [(0.0, 6.0), (1e-12, 5.0)], True),
    ],
)
def test_values_that_are_equal(found: list[Any], expected: list[Any], is_same: bool) -> None:
    """Floats have a tolerance, integers none; types, NULL and repetitions count."""
    assert same_rows(found, expected) == is_same


def test_many_alike_columns_take_no_time() -> None:
    """A dozen columns of the same values in other orders are compared within the limit of trials."""
    rng = random.Random(0)
    columns = [rng.sample(range(6), 6) for _ in range(12)]
    expected = list(zip(*columns, strict=True))
    assert same_rows([row[::-1] for row in expected], expected)
    assert not same_rows(list(zip(*(rng.sample(range(6), 6) for _ in range(12)), strict=True)), expected)


def test_only_the_outer_order_counts() -> None:
    """ORDER BY in a subquery, a window, a text, a name or a comment is not that of the query."""
    for query in (
        "SELECT a FROM t ORDER BY a",
        "select a from t order\n/* */ by b limit 3",
        "SELECT 1 UNION SELECT 2 ORDER BY 1",
    ):
        assert is_ordered(query)
    for query in (
        *("SELECT a FROM (SELECT a FROM t ORDER BY a)", "SELECT rank() OVER (ORDER BY a) FROM t", "SELECT 'order by'"),
        *(
            'SELECT "order by" FROM t',
            "SELECT a FROM t -- ORDER BY a",
            "SELECT [order by] FROM t",
            "SELECT 'a'' ORDER BY'",
        ),
    ):
        assert not is_ordered(query)


def test_texts_of_queries_are_compared_without_layout() -> None:
    """Spaces, comments, a final semicolon and capitals outside quotes do not matter; those inside do."""
    assert normalised("select  A,b\nFROM t WHERE x='Ab  c' -- end\n ;") == normalised(
        "SELECT a , B FROM T where X = 'Ab  c'"
    )
    assert normalised("SELECT 'A'") != normalised("SELECT 'a'") and normalised("a<b") != normalised("a<=b")
    assert sql_in("Here it is:\n```sql\nSELECT 1\n```\nDone.") == "SELECT 1" and sql_in(" SELECT 2 \n") == "SELECT 2"


def test_a_prediction_is_right_or_wrong_with_a_reason(sandbox: Sandbox, database: Path) -> None:
    """Other rows, failures and empty answers are wrong; an expected query that fails is the data's fault."""
    expected = "SELECT name, age FROM person WHERE city = 'A'"
    for prediction, reason in {
        "SELECT age, name FROM person WHERE city IN ('A')": "",
        "SELECT age, name FROM person WHERE city IN ('A') ORDER BY age": "",
        "SELECT name FROM person": "other rows",
        "SELECT nam FROM person": "no such column: nam",
        "DROP TABLE person": "not allowed: DROP",
        "": "empty",
        "-- I do not know": "empty",
    }.items():
        match = query_match(sandbox, [database], prediction, expected)
        assert (match.is_right, match.reason, match.fault) == (not reason, reason, "")
    ordered = "SELECT id FROM visit ORDER BY id"
    assert query_match(sandbox, [database], ordered + " DESC", ordered).reason == "other rows"
    assert query_match(sandbox, [database], "SELECT 1", "SELECT nope FROM person").fault == "no such column: nope"


@pytest.fixture
def predictions(database: Path, tmp_path: Path) -> Callable[..., Path]:
    """`predictions(*records)`: the path of a file, beside databases `one.sqlite` and `two/` with two variants."""
    folder = tmp_path / "databases"
    (folder / "two").mkdir(parents=True)
    for place in ("one.sqlite", "two/first.sqlite", "two/second.sqlite"):
        (folder / place).write_bytes(database.read_bytes())
    with closing(sqlite3.connect(folder / "two" / "second.sqlite")) as connection:
        connection.execute("DELETE FROM person WHERE id > 3")
        connection.commit()

    def write(*records: Any) -> Path:
        path = tmp_path / "predictions.jsonl"
        path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
        return path

    return write


def test_a_file_is_scored_by_database(predictions: Callable[..., Path]) -> None:
    """Accuracy, exact matches, databases and reasons are counted; all files of a database must agree."""
    right = "SELECT count(*) FROM person"
    path = predictions(
        {"database": "one", "sql": right, "prediction": "select COUNT(*) from person;"},
        {"db": "one", "query": right, "prediction": "SELECT 43"},
        {"db_id": "two", "reference": right, "prediction": "SELECT 43"},
        {"database": "two", "output": right, "prediction": None},
        {"database": "one", "sql": right, "error": "the prompt is too long"},
        {"database": "two", "sql": "SELECT nope FROM person", "prediction": right},
        {"database": "two", "sql": right, "prediction": "SELECT count(id) FROM persons"},
    )
    for workers in (1, 3):
        scores = score_predictions(path, path.parent / "databases", workers=workers)
        assert (scores.accuracy, scores.exact) == (2 / 6, 1 / 6)
        assert scores.by_database == {"one": (2, 3), "two": (0, 3)}
        assert scores.by("db") == {"": (1, 5), "one": (1, 1)}
        assert scores.reasons == {"other rows": 1, "empty": 2, "no such table": 1}
        assert [(item.line, item.match.fault) for item in scores.left_out] == [(6, "no such column: nope")]
        assert scores.as_json()["left_out"] == {"no such column": 1}
    assert "execution accuracy 33.3% (2 of 6)" in str(scores) and "line 6" in str(scores)


def test_mistakes_in_a_file_are_named(predictions: Callable[..., Path], tmp_path: Path) -> None:
    """A record without a field or with an unknown database, and a line that is not JSON, are named with their line."""
    good = {"database": "one", "sql": "SELECT 1", "prediction": "SELECT 1"}
    for changes, message in (
        ({"prediction": 5}, "line 2: the field prediction is not a text"),
        ({"sql": None}, "line 2: the field sql is not a text"),
        ({"database": "three"}, "'three'"),
        ({"database": "../databases/one"}, "has no file of the database"),
        ({"database": "/etc/passwd"}, "has no file of the database"),
        ({"database": ""}, "has no file of the database"),
    ):
        with pytest.raises(UserError, match=message):
            score_predictions(predictions(good, {**good, **changes}), tmp_path / "databases")
    with pytest.raises(UserError, match="line 1: the record has no field sql or query"):
        score_predictions(predictions({"database": "one", "prediction": ""}), tmp_path / "databases")
    with pytest.raises(UserError, match="line 1: not a JSON object"):
        score_predictions(predictions([1]), tmp_path / "databases")
    with pytest.raises(UserError, match="cannot be read"):
        score_predictions(tmp_path / "none.jsonl", tmp_path / "databases")


def test_a_link_out_of_the_folder_is_not_a_database_of_it(predictions: Callable[..., Path], database: Path) -> None:
    """A name that links to a file outside the folder of databases is unknown."""
    path = predictions({"database": "out", "sql": "SELECT 1", "prediction": "SELECT 1"})
    try:
        (path.parent / "databases" / "out.sqlite").symlink_to(database)
    except OSError:
        pytest.skip("no permission for links")
    with pytest.raises(UserError, match="'out'"):
        score_predictions(path, path.parent / "databases")
