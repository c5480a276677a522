"""Questions about a database with the queries that answer them, composed from templates and drawn parts.

question_templates.yaml -> Template -+
database, rows -> parts that fit ----+-> draft -> Draft: a query, and the question in one language

Parts of one table: rows (its name), label, column (any but labels and references), choice, number, day, where, where2
(conditions), sort (DESC, highest), most (DESC, most), few, many, middle (numbers). Of a join of rows and their parents
besides: parent, parents, ref, parent_label, parent_choice, parent_where, name (of a parent), plain_where (of the rows,
in a subquery). Of a link between two tables: rows; first, firsts, first_ref, first_label, first_where and the same for
second; name (of a first). A template that needs a part which the tables lack is not used for them.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from babyllm.recipes.text_to_sql.made_databases import (
    Cell,
    Choice,
    Column,
    Database,
    Day,
    Label,
    Number,
    Ref,
    Rows,
    Table,
)

TEMPLATES = Path(__file__).with_name("question_templates.yaml")
LANGUAGES = ("en", "zh")
COMPARISONS = {
    Number: ((">", "is above", "大于"), ("<", "is below", "小于")),
    Day: ((">", "is after", "晚于"), ("<", "is before", "早于")),
}


class Part(NamedTuple):
    """What stands for a name in braces: in SQL, in English and in Chinese."""

    sql: str
    en: str
    zh: str


Parts = dict[str, Part]


class Template(NamedTuple):
    """A kind of question.

    Attributes:
        name: its name.
        source: what its parts are drawn from: table, join or link.
        sql: the query.
        en: wordings in English.
        zh: wordings in Chinese.
        tie: the column that orders rows which are otherwise alike; empty for queries without ORDER BY.
        held_out: whether no question of this kind is in the training set.
    """

    name: str
    source: str
    sql: str
    en: tuple[str, ...]
    zh: tuple[str, ...]
    tie: str = ""
    held_out: bool = False


class Draft(NamedTuple):
    """A question and its query.

    Attributes:
        question: the question, in one of the languages.
        language: `en` or `zh`.
        sql: the query.
        variants: the query with ties broken both ways; its rows must be the same for both. Empty without ORDER BY.
    """

    question: str
    language: str
    sql: str
    variants: tuple[str, ...]


def load_templates() -> list[Template]:
    """All templates, in the order of the file."""
    groups = yaml.safe_load(TEMPLATES.read_text(encoding="utf-8"))
    return [
        Template(
            name,
            source,
            facts["sql"],
            tuple(facts["en"]),
            tuple(facts["zh"]),
            facts.get("tie", ""),
            facts.get("held_out", False),
        )
        for source, templates in groups.items()
        for name, facts in templates.items()
    ]


def draft(template: Template, database: Database, rows: Rows, rng: random.Random) -> Draft | None:
    """A question of a template about a database; None if what was drawn lacks a part that the template needs."""
    parts = SOURCES[template.source](database, rows, rng)
    language = rng.choice(LANGUAGES)
    wording = rng.choice(getattr(template, language))
    words = {name: getattr(part, language) for name, part in parts.items()}
    names = {name: part.sql for name, part in parts.items()}
    try:
        question = wording.format_map(words)
        ties = ["", f", {template.tie}", f", {template.tie} DESC"] if template.tie else [""]
        sql, *variants = [template.sql.format_map({**names, "tie": tie.format_map(names)}) for tie in ties]
    except KeyError:
        return None
    return Draft(question[:1].upper() + question[1:], language, sql, tuple(variants))


def _of_a_table(database: Database, rows: Rows, rng: random.Random) -> Parts:
    table = rng.choice(database.tables)
    parts = _plain(table, rows, rng)
    # A condition on the column by which rows are grouped would make most of these questions trivial.
    return {**parts, **_conditions(table, rows, rng, "", without=parts.get("choice"))}


def _of_a_join(database: Database, rows: Rows, rng: random.Random) -> Parts:
    table = rng.choice([table for table in database.tables if table.of_kind(Ref)])
    column = rng.choice(table.of_kind(Ref))
    assert isinstance(column.kind, Ref)
    parent = database.table(column.kind.table)
    parts = {**_plain(table, rows, rng), **_conditions(table, rows, rng, "T1.")}
    parts["plain_where"] = _conditions(table, rows, rng, "")["where"]
    parts["ref"] = _words(column)
    return {**parts, **_related("parent", parent, rows, rng, "T2."), "name": _named(parent, rows, rng)}


def _of_a_link(database: Database, rows: Rows, rng: random.Random) -> Parts:
    table = rng.choice([table for table in database.tables if len(table.of_kind(Ref)) == 2])
    columns = table.of_kind(Ref)
    rng.shuffle(columns)
    parts = _plain(table, rows, rng)
    for role, column, prefix in zip(("first", "second"), columns, ("T2.", "T3."), strict=True):
        assert isinstance(column.kind, Ref)
        other = database.table(column.kind.table)
        parts |= {**_related(role, other, rows, rng, prefix), f"{role}_ref": _words(column)}
        parts.setdefault("name", _named(other, rows, rng))
    return parts


SOURCES: dict[str, Callable[[Database, Rows, random.Random], Parts]] = {
    "table": _of_a_table,
    "join": _of_a_join,
    "link": _of_a_link,
}


def _plain(table: Table, rows: Rows, rng: random.Random) -> Parts:
    """The parts of a table that are not conditions."""
    parts = {"rows": Part(table.name, table.plural, table.zh)}
    for name, kinds in (
        ("label", (Label,)),
        ("choice", (Choice,)),
        ("number", (Number,)),
        ("day", (Day,)),
        ("column", (Choice, Number, Day)),
    ):
        if columns := table.of_kind(*kinds):
            column = rng.choice(columns)
            parts[name] = _words(column)
            if name == "number":
                parts["middle"] = _same(str(round(statistics.mean(_known(table, column, rows)))))
    parts["few"] = _same(str(rng.randint(2, 5)))
    parts["many"] = _same(str(rng.randint(1, max(2, table.n_rows // 10))))
    parts["sort"] = rng.choice((Part("DESC", "highest", "最高"), Part("ASC", "lowest", "最低")))
    parts["most"] = rng.choice((Part("DESC", "most", "最多"), Part("ASC", "fewest", "最少")))
    return parts


def _related(role: str, table: Table, rows: Rows, rng: random.Random, prefix: str) -> Parts:
    """The parts of a table in a join, named after its role."""
    parts = {role: Part(table.name, table.en, table.zh), f"{role}s": Part(table.name, table.plural, table.zh)}
    parts[f"{role}_where"] = _conditions(table, rows, rng, prefix)["where"]
    for name, kind in (("label", Label), ("choice", Choice)):
        if columns := table.of_kind(kind):
            parts[f"{role}_{name}"] = _words(rng.choice(columns))
    return parts


def _named(table: Table, rows: Rows, rng: random.Random) -> Part:
    """The name of one row of a table."""
    return _literal(rng.choice(rows[table.name])[table.of_kind(Label)[0].name])


def _conditions(table: Table, rows: Rows, rng: random.Random, prefix: str, without: Part | None = None) -> Parts:
    """One condition, and another on a second column, as far as there are columns besides `without`."""
    columns = [column for column in table.of_kind(Choice, Number, Day) if not without or column.name != without.sql]
    rng.shuffle(columns)
    names = ("where", "where2")
    return {name: _condition(table, column, rows, rng, prefix) for name, column in zip(names, columns, strict=False)}


def _condition(table: Table, column: Column, rows: Rows, rng: random.Random, prefix: str) -> Part:
    name, en, zh = prefix + column.name, column.en, column.zh
    if column.empty and rng.random() < 0.3:
        return Part(f"{name} IS NULL", f"{en} is not known", f"{zh}未知")
    known = sorted(set(_known(table, column, rows)))
    value = _literal(rng.choice(known))
    if isinstance(column.kind, Choice):
        sign, en_is, zh_is = rng.choices((("=", "is", "是"), ("!=", "is not", "不是")), weights=(3, 1))[0]
    elif rng.random() < 0.3:
        low, high = (_literal(bound) for bound in sorted(rng.sample(known, 2)))
        sql = f"{name} BETWEEN {low.sql} AND {high.sql}"
        return Part(sql, f"{en} is between {low.en} and {high.en}", f"{zh}在{low.zh}和{high.zh}之间")
    else:
        sign, en_is, zh_is = rng.choice(COMPARISONS[type(column.kind)])
    return Part(f"{name} {sign} {value.sql}", f"{en} {en_is} {value.en}", f"{zh}{zh_is}{value.zh}")


def _known(table: Table, column: Column, rows: Rows) -> list[Any]:
    return [row[column.name] for row in rows[table.name] if row[column.name] is not None]


def _literal(value: Cell) -> Part:
    text = str(value)
    return Part("'" + text.replace("'", "''") + "'" if isinstance(value, str) else text, text, text)


def _words(column: Column) -> Part:
    return Part(column.name, column.en, column.zh)


def _same(text: str) -> Part:
    return Part(text, text, text)
