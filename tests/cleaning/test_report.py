"""Reports: the terminal table, the JSON file and the HTML page."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from babyllm.pipeline.report import ExampleGroup, Histogram, LabelledTexts, Report, Table, print_report
from babyllm.pipeline.report_html import write_report

REPORT = Report(
    "A <report>",
    [("documents", 1234567), ("time", "12 s"), ("kept", 0.91234), ("nothing", None)],
    [
        Table(
            "By domain",
            ["domain", "documents", "share"],
            [["新闻", 12345, 0.75], ["web & more", 6, 0.25], ["none", None, 0]],
        )
    ],
    [
        Histogram("Length", "characters", is_log=True, series={"a": [(0, 1, 2), (1, 10, 5)], "b": []}),
        Histogram("Sizes", "documents", is_log=False, series={"x": [(2, 3, 4), (5, 6, 1)]}),
    ],
    [ExampleGroup("Pairs", [LabelledTexts("a:1", ["<b>\u200b左", "右"])])],
)
STORED = {
    "title": "A <report>",
    "facts": [["documents", 1234567], ["time", "12 s"], ["kept", 0.91234], ["nothing", None]],
    "tables": [
        {
            "title": "By domain",
            "columns": ["domain", "documents", "share"],
            "rows": [["新闻", 12345, 0.75], ["web & more", 6, 0.25], ["none", None, 0]],
        }
    ],
    "histograms": [
        {"title": "Length", "unit": "characters", "log": True, "series": {"a": [[0, 1, 2], [1, 10, 5]], "b": []}},
        {"title": "Sizes", "unit": "documents", "log": False, "series": {"x": [[2, 3, 4], [5, 6, 1]]}},
    ],
    "examples": [{"title": "Pairs", "items": [{"label": "a:1", "texts": ["<b>\u200b左", "右"]}]}],
}


class Page(HTMLParser):
    """Collects tags, their attributes and the text of a page; every tag that is opened must be closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes.append((tag, dict(attrs)))
        if tag not in ("meta",):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def page(tmp_path: Path) -> Page:
    write_report(tmp_path, REPORT)
    return Page((tmp_path / "report.html").read_text(encoding="utf-8"))


def test_a_report_is_stored_in_order(tmp_path: Path) -> None:
    """The JSON value has the keys that tools read, in their order, without lists that the report does not have."""
    write_report(tmp_path, REPORT)
    text = (tmp_path / "report.json").read_text(encoding="utf-8")
    assert text == json.dumps(STORED, ensure_ascii=False, indent=1) + "\n"
    again = Report.from_json(json.loads(text))
    assert json.loads(json.dumps(again.to_json())) == STORED
    assert Report("A", [("b", 1)]).to_json() == {"title": "A", "facts": [("b", 1)], "tables": []}
    assert Report.from_json({"title": "A"}) == Report("A", [], [], None, None)


def test_text_is_never_markup(tmp_path: Path) -> None:
    """Titles, names, labels, units and texts that look like HTML or like a template are shown as they are."""
    evil = "<script>alert('&amp;')</script> {{ 1 + 1 }} \"quoted\""
    histogram = Histogram(evil, evil, is_log=False, series={evil: [(1, 2, 3)]})
    table = Table(evil, [evil, "share"], [[evil, 0.5]])
    examples = [ExampleGroup(evil, [LabelledTexts(evil, [evil])])]
    write_report(tmp_path, Report(evil, [(evil, evil)], [table], [histogram], examples))
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert not page.open and "script" not in {tag for tag, _ in page.attributes}
    assert page.text.count(evil) == 13


def test_the_page_is_self_contained(page: Page) -> None:
    """The page is well-formed and needs no other file, script or network."""
    assert not page.open
    tags = {tag for tag, _ in page.attributes}
    assert not tags & {"script", "link", "img", "iframe"}
    assert not any("src" in attributes or "href" in attributes for _, attributes in page.attributes)
    assert "url(" not in page.text and "@import" not in page.text


def test_the_page_shows_everything(page: Page) -> None:
    """Title, facts, cells, plots and examples are on the page, and invisible characters are spelled out."""
    for text in (
        "A <report>",
        "1,234,567",
        "12 s",
        "0.9123",
        "新闻",
        "12,345",
        "web & more",
        "75.0 %",
        "Length",
        "Pairs",
    ):
        assert text in page.text
    assert "<b>⟨U+200B⟩左" in page.text and "右" in page.text
    assert sum(tag == "svg" for tag, _ in page.attributes) == 2
    bars = [attributes["style"] for tag, attributes in page.attributes if tag == "td" and "style" in attributes]
    assert bars == ["--share: 75.00%", "--share: 25.00%", "--share: 0.00%"]


def test_bins_are_drawn_where_they_are(page: Page) -> None:
    """The tallest bin reaches the top, the others are in proportion, and gaps reach down to the axis."""
    _, sizes = [a["d"] or "" for tag, a in page.attributes if tag == "path" and a["d"]]
    x, y = r"([\d.]+)", r"([\d.]+)"
    numbers = re.fullmatch(f"M{x},{y}V{y}H{x}V{y}L{x},{y}V{y}H{x}V{y}", sizes)
    assert numbers is not None
    left, base, top, x3, drop, x5, again, low, x6, end = map(float, numbers.groups())
    assert base == drop == again == end
    assert (base - low) / (base - top) == pytest.approx(1 / 4, abs=0.01)
    assert (x3 - left) == pytest.approx(x6 - x5, abs=0.2) and (x5 - x3) == pytest.approx(2 * (x3 - left), abs=0.3)


def test_the_terminal_shows_facts_and_tables(capsys: pytest.CaptureFixture[str]) -> None:
    """Columns are aligned although Chinese characters are two columns wide."""
    print_report(REPORT)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "A <report>" and lines[1] == "  documents  1,234,567"
    assert lines[-5:] == [
        "  domain      documents   share",
        "  ----------  ---------  ------",
        "  新闻           12,345  75.0 %",
        "  web & more          6  25.0 %",
        "  none                    0.0 %",
    ]


def test_an_empty_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A report with only a title, and empty tables and plots, can be shown."""
    print_report(Report("Nothing"))
    assert capsys.readouterr().out == "Nothing\n"
    table, histogram = Table("T", ["a", "share"], []), Histogram("H", "", is_log=True, series={})
    write_report(tmp_path, Report("Nothing", tables=[table], histograms=[histogram]))
    assert "Nothing" in Page((tmp_path / "report.html").read_text(encoding="utf-8")).text
