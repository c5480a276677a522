"""The history of benchmarks is valid, and its page is drawn from it."""

import re
from datetime import date

from benchmarks import history


def test_every_figure_has_a_date_a_commit_a_machine_a_command_and_a_unit() -> None:
    """Each line is complete, and figures stand in the order in which they were measured."""
    figures = history.read()
    assert figures
    for figure in figures:
        assert re.fullmatch(r"[0-9a-f]{7,40}", figure.commit), figure
        assert isinstance(figure.value, int | float) and not isinstance(figure.value, bool), figure
        assert all((figure.machine, figure.command, figure.figure, figure.unit)), figure
    days = [date.fromisoformat(figure.date) for figure in figures]
    assert days == sorted(days)


def test_no_figure_changes_its_unit() -> None:
    """Figures of one name and program are comparable: all have one unit."""
    units: dict[tuple[str, str], set[str]] = {}
    for figure in history.read():
        units.setdefault((figure.program, figure.figure), set()).add(figure.unit)
    assert {name: found for name, found in units.items() if len(found) > 1} == {}


def test_the_page_is_drawn_from_the_history() -> None:
    """reference/benchmarks.md is what `make docs` draws from the file today."""
    for language, page in history.PAGES.items():
        assert page.read_text(encoding="utf-8") == history.page(history.read(), language)
