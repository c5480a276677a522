"""A report as Markdown: facts, tables and examples, for notes and issues."""

from __future__ import annotations

from babyllm.pipeline.report import Cell, Report, Table, shown


def as_markdown(report: Report) -> str:
    """The report as Markdown; plots are left out."""
    parts = [f"# {report.title}"]
    if report.facts:
        parts.append("\n".join(f"- {_cell(name)}: {_cell(shown(value))}" for name, value in report.facts))
    parts += [_table(table) for table in report.tables]
    for group in report.examples or ():
        if group.items:
            parts.append(f"## {_cell(group.title)}")
        parts += [
            "\n".join([f"**{_cell(item.label)}**", "", *(f"- {_cell(t)}" for t in item.texts)]) for item in group.items
        ]
    return "\n\n".join(parts) + "\n"


def _table(table: Table) -> str:
    rules = ["--:" if is_numeric else "---" for is_numeric in table.is_numeric()]
    rows = [
        [_cell(shown(value, column)) for value, column in zip(row, table.columns, strict=True)] for row in table.rows
    ]
    lines = [f"| {' | '.join(cells)} |" for cells in ([_cell(name) for name in table.columns], rules, *rows)]
    return "\n".join([f"## {_cell(table.title)}", "", *lines])


def _cell(text: Cell) -> str:
    """A text on one line, in which nothing is markup."""
    line = " ".join(str(text).split())
    return "".join(f"\\{c}" if c in "\\`*_[]<>|#" else c for c in line)
