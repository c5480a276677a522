"""The blind sheet in a real browser, and what people chose."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from fake_endpoint import faking, says
from page_fixtures import ATTACK, browser  # noqa: F401

from babyllm.__main__ import run
from babyllm.errors import UserError
from babyllm.judging.answer_files import Pair
from babyllm.judging.sheet import Sheet, make_sheet, read_choices, sheet_page

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

ODD = f"</script><!-- <script> {ATTACK} \u2028 {{{{data}}}} \\u003c 龘"
PAIRS = [Pair(str(i), f"prompt {i} {ODD}", f"from A {i} {ODD}", f"from B {i}", ODD if i else None) for i in range(6)]
EQUAL = Pair("equal", "p", "same", "same")


@pytest.fixture
def page(browser: "Browser", tmp_path: Path) -> Iterator["Page"]:  # noqa: F811
    """The sheet of the pairs as a file, on a phone; fails if it runs what answers contain or asks for anything."""
    (tmp_path / "sheet.html").write_bytes(sheet_page(make_sheet([*PAIRS, EQUAL], 0)))
    context = browser.new_context(locale="zh-CN", viewport={"width": 390, "height": 800}, accept_downloads=True)
    context.set_default_timeout(10_000)
    page = context.new_page()
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda said: wrong.append(said.text))
    page.on("request", lambda sent: None if sent.url.startswith(("file:", "blob:")) else wrong.append(sent.url))
    page.goto((tmp_path / "sheet.html").as_uri())
    yield page
    assert page.evaluate("window.hacked") is None
    context.close()
    assert wrong == []


def first_is_a(page: "Page") -> bool:
    return page.locator("#answers .text").first.inner_text().startswith("from A")


def downloaded(page: "Page", path: Path) -> Path:
    with page.expect_download() as caught:
        page.locator("#save").click()
    caught.value.save_as(path)
    return path


def test_people_choose_by_keys_and_taps(page: "Page", tmp_path: Path) -> None:
    """Keys and buttons choose, choices outlive a reload, the file is read back, and no text of others runs."""
    sheet = make_sheet([*PAIRS, EQUAL], 0)
    assert page.locator("#count").inner_text() == "第 1 对，共 6 对 · 已选 0 对"
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    expected = {}
    for number, item in enumerate(sheet.items[:5]):
        texts = page.locator("#answers .text")
        assert [texts.nth(i).text_content() for i in (0, 1)] == list(item.shown)
        assert page.locator("#prompt").text_content() == item.pair.prompt
        assert page.locator("#reference").is_visible() == (item.pair.reference is not None)
        expected[item.pair.key] = "tie" if number == 4 else "A" if first_is_a(page) == (number % 2 == 0) else "B"
        if number < 2:
            page.keyboard.press(str(number + 1))
        else:
            page.locator(f".choice[data-choice='{'tie' if number == 4 else number % 2 + 1}']").click()
    page.reload()
    assert page.locator("#count").inner_text() == "第 6 对，共 6 对 · 已选 5 对"
    page.locator("#language").click()
    assert page.locator("#count").inner_text() == "Pair 6 of 6 · 5 chosen"
    assert read_choices(downloaded(page, tmp_path / "c.json"), sheet) == expected
    page.keyboard.press("ArrowLeft")
    assert page.locator(".choice[aria-pressed=true]").get_attribute("data-choice") == "tie"
    page.keyboard.press("ArrowRight")
    page.keyboard.press("0")
    assert "All pairs are chosen" in page.locator("#note").inner_text()
    assert len(read_choices(downloaded(page, tmp_path / "d.json"), sheet)) == 6


def test_sides_and_order_depend_on_the_seed() -> None:
    """Both sides occur, another seed is another sheet, equal answers are left out, and nothing names the files."""
    sheet, other = make_sheet([*PAIRS, EQUAL], 0), make_sheet(PAIRS, 1)
    assert len(sheet.items) == 6 and sheet == make_sheet([EQUAL, *reversed(PAIRS)], 0) and sheet.id != other.id
    many = make_sheet([Pair(str(i), "p", f"a{i}", f"b{i}") for i in range(400)], 0)
    assert 160 < sum(item.is_swapped for item in many.items) < 240
    assert [item.pair.key for item in many.items] != sorted(item.pair.key for item in many.items)


def test_choices_are_compared_with_the_judge(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Choices of several people are mapped back, with or without a judge, and choices of another sheet are refused."""
    files = []
    for side in "AB":
        lines = [json.dumps({"prompt": f"p{i}", "answer": f"{side}{i}"}) for i in range(8)]
        files.append(tmp_path / f"{side}.jsonl")
        files[-1].write_text("\n".join(lines))
    arguments = ["judge", *map(str, files), str(tmp_path / "out"), "--seed=4"]
    run([*arguments, "--sheet"])
    text = (tmp_path / "out" / "sheet.html").read_text(encoding="utf-8")
    assert str(tmp_path) not in text and "A.jsonl" not in text
    pairs = [Pair(f"p{i}\n0", f"p{i}", f"A{i}", f"B{i}") for i in range(8)]
    sheet = make_sheet(pairs, 4)
    choices = {item.id: ("2" if item.is_swapped else "1") for item in sheet.items if int(item.pair.a[1]) < 6}
    for name, value in (("one", choices), ("out/choices-two", {item: "tie" for item in choices})):
        (tmp_path / f"{name}.json").write_text(json.dumps({"sheet": sheet.id, "choices": value}))
    people = f"--people=[{tmp_path}/one.json, {tmp_path}/out/choices-two.json]"
    run([*arguments, people])
    (table,) = json.loads((tmp_path / "out" / "report.json").read_text())["tables"]
    assert [row[1:5] + row[7:] for row in table["rows"]] == [
        [6, 0, 0, 1.0, 0, None, None],
        [0, 6, 0, 0.5, 0, None, None],
    ]

    def prefers_a(said: str, n: int):  # type: ignore[no-untyped-def]
        number = int(said.partition("<prompt>\np")[2][0])
        is_first = "<answer_a>\nA" in said
        return says(f"Verdict: {'tie' if number == 5 else 'A' if is_first == (number < 4) else 'B'}")

    with faking(prefers_a) as server:
        run([*arguments, people, f"--endpoint.url={server.url}", "--endpoint.model=m"])
    table = json.loads((tmp_path / "out" / "report.json").read_text())["tables"][-1]
    assert [row[7:] for row in table["rows"]] == [[6, 4 / 6, 0.0], [6, 1 / 6, 0.0]]
    assert (tmp_path / "out" / "sheet.html").is_file() and "kappa" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"one\.json is of another sheet"):
        run([*arguments[:-1], "--seed=5", people])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is not JSON"),
        ("{}", "holds no choices of a sheet"),
        ('{"sheet": 1, "choices": {}}', "is of another sheet"),
        ('{"sheet": "ID", "choices": {"x": "1"}}', "x is not a choice of this sheet"),
        ('{"sheet": "ID", "choices": {"ITEM": ["1"]}}', "is not a choice of this sheet"),
    ],
)
def test_files_that_are_no_choices_are_refused(text: str, words: str, tmp_path: Path) -> None:
    """A file of people that is damaged or of another sheet is refused by its name."""
    sheet: Sheet = make_sheet(PAIRS, 0)
    (tmp_path / "c.json").write_text(text.replace("ID", sheet.id).replace("ITEM", sheet.items[0].id))
    with pytest.raises(UserError, match=words):
        read_choices(tmp_path / "c.json", sheet)
