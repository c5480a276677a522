"""The sample set for text-to-SQL on disk: ten databases, and records for fine-tuning with held-out ones beside them.

databases -> NAME.sqlite -> drafts of questions -> the sandbox runs each query -> those with rows -> train, test
                           schema_text -> the instruction of each record

    python data/text_to_sql.py data/text_to_sql
"""

from __future__ import annotations

import argparse
import json
import random
import sqlite3
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from babyllm.documents import is_held_out
from babyllm.errors import UserError
from babyllm.files import new_folder
from babyllm.recipes.text_to_sql.made_databases import Database, load_databases, rows_of, write_database
from babyllm.recipes.text_to_sql.sql_questions import Draft, Template, draft, load_templates
from babyllm.sandbox import QueryResult, Sandbox

TRAIN, TEST, DATABASES = "train.jsonl", "test.jsonl", "databases"
PER_TEMPLATE = 4
TRIES = 12  # drafts for each question that is wanted: some have no rows, or an order that is not a full one
MAX_ROWS = 150
HELD_OUT = 0.06  # of the questions whose database and template are trained on
INSTRUCTIONS = {
    "en": "Write one SQLite query that answers the question about the database {name}.\n{schema}",
    "zh": "写一条 SQLite 查询语句，回答关于数据库 {name} 的问题。\n{schema}",
}


def prompt(database: Path, language: str = "en") -> str:
    """The instruction for questions about a database: what to do, and its tables, columns and keys.

    Args:
        database: an SQLite file.
        language: `en` or `zh`.

    Raises:
        UserError: the file cannot be read.
    """
    return INSTRUCTIONS[language].format(name=database.stem, schema=schema_text(database))


def schema_text(database: Path) -> str:
    """The tables of an SQLite file, a line for each: its columns, its primary key and its foreign keys.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        with closing(sqlite3.connect(f"{database.resolve().as_uri()}?mode=ro", uri=True)) as connection:
            tables = connection.execute(
                "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"
            )
            return "\n".join(_table_text(connection, name) for (name,) in tables.fetchall())
    except sqlite3.Error as error:
        raise UserError(f"{database}: cannot be read as an SQLite file ({error})") from error


def _table_text(connection: sqlite3.Connection, table: str) -> str:
    columns = connection.execute("SELECT name, pk FROM pragma_table_info(?)", [table]).fetchall()
    keys = [name for name, order in sorted(columns, key=lambda column: column[1]) if order]
    text = f"{table}({', '.join(name for name, _ in columns)})"
    text += f", primary key {', '.join(keys)}" if keys else ""
    foreign = connection.execute(
        'SELECT "from", "table", coalesce("to", ?) FROM pragma_foreign_key_list(?) ORDER BY "from"',
        [keys[0] if keys else "", table],
    )
    return text + "".join(f", foreign key {column} = {other}.{key}" for column, other, key in foreign)


def make(target: Path, seed: int = 0, per_template: int = PER_TEMPLATE) -> Counter[tuple[str, str]]:
    """Make the sample set in a new folder; the same files for the same seed.

    Args:
        target: folder to create: `databases/NAME.sqlite`, `train.jsonl`, `test.jsonl`.
        seed: seed of rows and questions.
        per_template: questions wanted of each template about each database.

    Returns:
        The number of records by split and, of the test set, by what is held out: database, template, both, or
        the question alone.

    Raises:
        UserError: the folder exists or cannot be written.
    """
    n: Counter[tuple[str, str]] = Counter()
    with new_folder(target) as folder, Sandbox() as sandbox:
        (folder / DATABASES).mkdir()
        records: dict[str, list[dict[str, Any]]] = {TRAIN: [], TEST: []}
        for database in load_databases():
            for record in _records(database, folder / DATABASES, seed, per_template, sandbox):
                split = TEST if record.get("held_out") else TRAIN
                records[split].append(record)
                n[split, record.get("held_out", "")] += 1
        for name, written in records.items():
            random.Random(f"{seed} {name}").shuffle(written)
            with (folder / name).open("w", encoding="utf-8", newline="\n") as file:
                file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in written)
    return n


def _records(
    database: Database, folder: Path, seed: int, per_template: int, sandbox: Sandbox
) -> Iterator[dict[str, Any]]:
    """The records of a database, whose file is written to the folder."""
    path = folder / f"{database.name}.sqlite"
    rows = rows_of(database, seed)
    write_database(path, database, rows)
    asked: set[str] = set()
    for template in load_templates():
        rng = random.Random(f"{seed} {database.name} {template.name}")
        drafts = (draft(template, database, rows, rng) for _ in range(TRIES * per_template))
        found = 0
        for item in drafts:
            if found < per_template and item and item.sql not in asked and _is_answered(item, path, sandbox):
                asked.add(item.sql)
                found += 1
                yield _record(item, template, database, path)


def _is_answered(item: Draft, path: Path, sandbox: Sandbox) -> bool:
    """Whether a query has rows, not too many, with values, and in an order that its ORDER BY decides."""
    result = sandbox.query(path, item.sql)
    if result.reason or not 1 <= len(result.rows) <= MAX_ROWS or all(value is None for value in result.rows[0]):
        return False
    variants: list[QueryResult] = [sandbox.query(path, sql) for sql in item.variants]
    return all(variant.rows == result.rows for variant in variants)


def _record(item: Draft, template: Template, database: Database, path: Path) -> dict[str, Any]:
    record = {
        "task": "text_to_sql",
        "instruction": prompt(path, item.language),
        "input": item.question,
        "output": item.sql,
        "database": database.name,
        "sql": item.sql,
        "template": template.name,
        "language": item.language,
    }
    held_out = _held_out(item, template, database)
    return {**record, "held_out": held_out} if held_out else record


def _held_out(item: Draft, template: Template, database: Database) -> str:
    """What the training set lacks of a question; empty for questions of the training set."""
    if database.held_out:
        return "both" if template.held_out else "database"
    if template.held_out:
        return "template"
    return "question" if is_held_out(f"{database.name} {item.sql}", HELD_OUT) else ""


def main() -> int:
    """Make the folder that the command line names; returns the exit status."""
    parser = argparse.ArgumentParser(description="Make the sample set for text-to-SQL.", allow_abbrev=False)
    parser.add_argument("out", type=Path, metavar="OUT", help="the folder to create")
    parser.add_argument("--seed", type=int, default=0, help="seed of rows and questions (default 0)")
    parser.add_argument(
        "--per_template",
        type=int,
        default=PER_TEMPLATE,
        metavar="N",
        help=f"questions wanted of each template about each database (default {PER_TEMPLATE})",
    )
    flags = parser.parse_args()
    try:
        n = make(flags.out, flags.seed, flags.per_template)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for (split, held_out), count in sorted(n.items(), reverse=True):
        print(f"{split:12}{held_out and 'held-out ' + held_out:20}{count:6,}")
    return 0
