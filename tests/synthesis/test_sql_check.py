"""The check `sql` of recipes: queries run on a database, beside the right one where it is known."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from fake_endpoint import Answer, faking, says
from synthesis_fixtures import check_accounts, flags_of, made_by

from babyllm.errors import UserError

RECIPE = """
about: queries that run
source: prompts
options: {database: ""}
steps:
- name: query
  ask: "Write SQL: {prompt}"
  into: sql
  keep: {check: [sql]}
record:
  messages: [{role: user, content: "{prompt}"}, {role: assistant, content: "{sql}"}]
"""
QUERIES = {
    "how many": "```sql\nSELECT count(*) FROM goods\n```",
    "names": "SELECT name FROM goods ORDER BY name",
    "none": "SELECT name FROM goods WHERE price > 99",
    "broken": "SELECT nothing FROM goods",
    "attack": "DROP TABLE goods",
    "wrong": "SELECT price FROM goods",
    "same": "SELECT price, name FROM goods WHERE 1",
}


def answer(said: str, n: int) -> Answer:
    return says(QUERIES[said.removeprefix("Write SQL: ")])


def test_queries_that_fail_are_refused(tmp_path: Path) -> None:
    """What runs and finds rows is kept; with a right query, what finds the same rows; the database stays as it is."""
    file = tmp_path / "shop.sqlite"
    with closing(sqlite3.connect(file)) as database:
        database.executescript("CREATE TABLE goods (name, price); INSERT INTO goods VALUES ('tea', 3), ('cup', 5);")
    before = file.read_bytes()
    expected = {"wrong": "SELECT name FROM goods", "same": "SELECT name, price FROM goods"}
    lines = [{"id": name, "prompt": name, "expected": expected.get(name, "")} for name in QUERIES]
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (tmp_path / "queries.yaml").write_text(RECIPE)
    with faking(answer) as server:
        flags = [*flags_of(server, tmp_path, "", "en"), f"--inputs={tmp_path / 'in.jsonl'}"]
        recipe = str(tmp_path / "queries.yaml")
        records, rejected, report = made_by(tmp_path / "out", recipe, *flags, f"--set={{database: {file}}}")
        with pytest.raises(UserError, match=r"nowhere\.sqlite: no such SQLite file"):
            made_by(tmp_path / "out", recipe, *flags, "--set={database: nowhere.sqlite}")
        assert server.asked.total() == len(QUERIES)
    check_accounts(records, rejected, report)
    assert [record["parents"][0] for record in records] == ["how many", "names", "same"]
    assert {line["parents"][0]: line["reason"] for line in rejected} == {
        "none": "query returns no rows",
        "broken": "query fails",
        "attack": "query fails",
        "wrong": "query returns other rows",
    }
    assert file.read_bytes() == before
