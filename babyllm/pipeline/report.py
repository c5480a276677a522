"""What a stage did to a corpus and why: one JSON value, shown as terminal tables and as one HTML page.

    report -> print_report -> terminal
           -> write_report -> report.json, report.html

A report is

    {"title": str,
     "facts": [[name, value], ...],
     "tables": [{"title": str, "columns": [str, ...], "rows": [[value, ...], ...]}, ...],
     "histograms": [{"title": str, "unit": str, "log": bool, "series": {name: [[low, high, count], ...]}}, ...],
     "examples": [{"title": str, "items": [{"label": str, "texts": [str, ...]}, ...]}, ...]}

Values are text, numbers or null; a column named "share" holds 0 to 1. Any of the four lists may be absent.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from babyllm.files import write_bytes, write_json
from babyllm.pipeline.report_html import page, shown

Report = Mapping[str, Any]
REPORT_FILES = ("report.json", "report.html")


def write_report(directory: Path, report: Report) -> None:
    """Write `report.json` and `report.html`, a page that needs no other file, into an existing directory."""
    value, shown_as_page = (directory / name for name in REPORT_FILES)
    write_json(value, report)
    write_bytes(shown_as_page, page(report).encode("utf-8", "backslashreplace"))


def print_report(report: Report) -> None:
    """Print the facts and tables of a report; plots and examples are in the HTML page."""
    print(report["title"])
    facts = [[name, shown(value)] for name, value in report.get("facts", [])]
    name_width = max((_width(name) for name, _ in facts), default=0)
    for name, value in facts:
        print(f"  {_padded(name, name_width)}  {value}")
    for table in report.get("tables", []):
        print(f"\n{table['title']}")
        for line in _lines(table["columns"], table["rows"]):
            print(f"  {line}")


def _lines(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    cells = [list(columns)] + [
        [" ".join(shown(value, column).split()) for value, column in zip(row, columns, strict=True)] for row in rows
    ]
    widths = [max(map(_width, column)) for column in zip(*cells, strict=True)]
    is_right = [any(isinstance(row[i], (int, float)) for row in rows) for i in range(len(columns))]
    lines = [
        "  ".join(
            _padded(cell, width, right) for cell, width, right in zip(row, widths, is_right, strict=True)
        ).rstrip()
        for row in cells
    ]
    return [lines[0], "  ".join("-" * width for width in widths), *lines[1:]]


def _width(text: str) -> int:
    """Columns of a terminal that a text takes: a Chinese character takes two."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def _padded(text: str, width: int, right: bool = False) -> str:
    space = " " * (width - _width(text))
    return space + text if right else text + space
