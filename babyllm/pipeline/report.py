"""Reports as plain values: printed as tables in the terminal, stored as one JSON object.

    Report(facts, tables, histograms, examples) -> print_report -> terminal
                                                -> to_json -> report.json (`babyllm.pipeline.report_html`)

A cell is text, a number or None; a column whose name ends in "share" holds 0 to 1.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Cell = str | float | None
"""A value of a table or a fact; integers and booleans are allowed too."""
Fact = tuple[str, Cell]
Bin = tuple[float, float, int]
"""The lower and upper edge of a bin and the number of values in it."""


@dataclass(frozen=True)
class Table:
    """Rows under named columns.

    Attributes:
        title: line above the table.
        columns: names of the columns; the values of one that ends in "share" are shown in per cent.
        rows: cells of each row, one per column.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]

    def is_numeric(self) -> list[bool]:
        """Whether each column has a number in at least one row."""
        return [any(isinstance(row[i], (int, float)) for row in self.rows) for i in range(len(self.columns))]

    def to_json(self) -> dict[str, Any]:
        """The table as a JSON value."""
        return {"title": self.title, "columns": self.columns, "rows": self.rows}


@dataclass(frozen=True)
class Histogram:
    """A histogram of one or several series in one plot.

    Attributes:
        title: line above the plot.
        unit: unit of the values.
        is_log: whether the axis of the values is logarithmic.
        series: bins of each series by its name, in rising order; empty bins may be missing.
    """

    title: str
    unit: str
    is_log: bool
    series: Mapping[str, Sequence[Bin]]

    def to_json(self) -> dict[str, Any]:
        """The histogram as a JSON value."""
        return {"title": self.title, "unit": self.unit, "log": self.is_log, "series": self.series}


@dataclass(frozen=True)
class LabelledTexts:
    """Texts side by side under a label, such as a document before and after an edit.

    Attributes:
        label: line above the texts.
        texts: one text or several.
    """

    label: str
    texts: Sequence[str]


@dataclass(frozen=True)
class ExampleGroup:
    """Examples of one kind.

    Attributes:
        title: line above the examples.
        items: the examples.
    """

    title: str
    items: Sequence[LabelledTexts]

    def to_json(self) -> dict[str, Any]:
        """The group as a JSON value."""
        items = [{"label": item.label, "texts": item.texts} for item in self.items]
        return {"title": self.title, "items": items}


@dataclass(frozen=True)
class Report:
    """A report on a command's work, a corpus, a run or an evaluation.

    Attributes:
        title: first line of the report.
        facts: names and values.
        tables: tables, shown one below the other.
        histograms: plots of the HTML page; None for a kind of report that never has any.
        examples: groups of texts; None for a kind of report that never has any.
        times: table of the time that the work took; it is printed and not stored, so that the files of a result are the
            same wherever they are made.
    """

    title: str
    facts: Sequence[Fact] = ()
    tables: Sequence[Table] = ()
    histograms: Sequence[Histogram] | None = None
    examples: Sequence[ExampleGroup] | None = None
    times: Table | None = None

    def to_json(self) -> dict[str, Any]:
        """The report as a JSON value, without missing lists and without times."""
        value: dict[str, Any] = {"title": self.title, "facts": self.facts}
        lists = {"tables": self.tables, "histograms": self.histograms, "examples": self.examples}
        return value | {name: [item.to_json() for item in items] for name, items in lists.items() if items is not None}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Report:
        """The report from the JSON value of `to_json`; a missing list becomes None or empty."""
        histograms, examples = value.get("histograms"), value.get("examples")
        return cls(
            value["title"],
            [(name, cell) for name, cell in value.get("facts", ())],
            [Table(**table) for table in value.get("tables", ())],
            histograms and [Histogram(h["title"], h["unit"], h["log"], h["series"]) for h in histograms],
            examples and [ExampleGroup(e["title"], [LabelledTexts(**item) for item in e["items"]]) for e in examples],
        )


def print_report(report: Report) -> None:
    """Print the facts and tables of a report, without its plots and examples (`write_report`, `print_examples`)."""
    print(report.title)
    facts = [(name, shown(value)) for name, value in report.facts]
    name_width = max((_width(name) for name, _ in facts), default=0)
    for name, value in facts:
        print(f"  {_padded(name, name_width)}  {value}")
    for table in (*report.tables, *([report.times] if report.times else [])):
        print(f"\n{table.title}")
        for line in _lines(table):
            print(f"  {line}")


def print_examples(report: Report, form: Callable[[str], str] = str) -> None:
    """Print the groups of examples that are not empty.

    Args:
        report: report with the examples.
        form: function that returns what is printed for a text.
    """
    for group in report.examples or ():
        if not group.items:
            continue
        print(f"\n{group.title}")
        for item in group.items:
            print(f"  {item.label}")
            for text in item.texts:
                print(f"    {form(text)}")


def shown(value: Cell, column: str = "") -> str:
    """A value in readable form: 1,234,567, 0.5123, 12.3 % in a column of shares, an empty text for None."""
    if value is None:
        return ""
    if isinstance(value, (int, float)) and column.endswith("share"):
        return f"{value * 100:.1f} %"
    if isinstance(value, float):
        return f"{value:,.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _lines(table: Table) -> list[str]:
    cells = [list(table.columns)] + [
        [" ".join(shown(value, column).split()) for value, column in zip(row, table.columns, strict=True)]
        for row in table.rows
    ]
    widths = [max(map(_width, column)) for column in zip(*cells, strict=True)]
    is_right = table.is_numeric()
    lines = [
        "  ".join(
            _padded(cell, width, right) for cell, width, right in zip(row, widths, is_right, strict=True)
        ).rstrip()
        for row in cells
    ]
    return [lines[0], "  ".join("-" * width for width in widths), *lines[1:]]


def _width(text: str) -> int:
    """The number of terminal columns that a text takes; a Chinese character takes two."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def _padded(text: str, width: int, right: bool = False) -> str:
    space = " " * (width - _width(text))
    return space + text if right else text + space
