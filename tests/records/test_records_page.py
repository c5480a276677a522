"""The records page in a real browser, and what its server refuses."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from page_fixtures import ATTACK, browser  # noqa: F401

from babyllm.__main__ import run
from babyllm.errors import UserError
from babyllm.records.collection import opened
from babyllm.records.record_server import serve_records
from babyllm.serve.http.middleware import Access

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

TOKEN = "open-sesame"
ODD = f"</script><!-- <script> {ATTACK} \u202e\u0000\u001b[31m \ud800 {{{{records.js}}}}"
RECORDS: list[dict[str, Any]] = [
    {"task": f"task {i % 2}", "score": i, "messages": [{"role": "user", "content": f"question {i}"}]}
    for i in range(120)
]
RECORDS[1]["messages"].append({"role": "assistant", "content": ODD})
RECORDS[2]["messages"].append({"role": "assistant", "content": "长" * 10**6 + "end"})
RECORDS[3][ODD] = {ODD: ODD}


@contextmanager
def serving(path: Path) -> Iterator[str]:
    """The address of a server of a file, without the token."""
    ready, found = threading.Event(), []

    def tell(url: str, server: Any) -> None:
        found.extend([url, server])
        ready.set()

    with opened([path]) as collection:
        thread = threading.Thread(target=serve_records, args=(collection, Access("127.0.0.1", TOKEN), 0, tell))
        thread.start()
        assert ready.wait(60)
        yield found[0]
        found[1].should_exit = True
        thread.join(60)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "records.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in RECORDS))
    return path


@pytest.fixture
def url(file: Path) -> Iterator[str]:
    with serving(file) as found:
        yield found


@contextmanager
def page_of(browser: "Browser", url: str, **options: Any) -> Iterator["Page"]:  # noqa: F811
    """The page; fails if it runs what records contain, logs an error or asks another server."""
    context = browser.new_context(**{"locale": "en-US", "viewport": {"width": 1100, "height": 750}, **options})
    context.set_default_timeout(10_000)
    page = context.new_page()
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda said: wrong.append(said.text) if "409" not in said.text else None)
    page.on("request", lambda sent: None if sent.url.startswith((url, "data:")) else wrong.append(sent.url))
    page.goto(f"{url}/#token={TOKEN}")
    page.locator(".leaf").first.wait_for()
    yield page
    assert page.evaluate("window.hacked") is None and page.url == f"{url}/"
    context.close()
    assert wrong == []


def edits(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.with_name(file.name + ".edits.jsonl").read_text().splitlines()]


def test_a_person_marks_and_mends_by_keyboard(browser: "Browser", url: str, file: Path, tmp_path: Path) -> None:  # noqa: F811
    """Keys leaf, keep, reject, take back and edit; filters choose; all is on disk, and the result is a file."""
    with page_of(browser, url) as page:
        page.keyboard.press("y")
        page.get_by_text("Line 2 of records.jsonl").wait_for()
        page.keyboard.press("n")
        page.get_by_text("Line 3 of records.jsonl").wait_for()
        page.keyboard.press("h")
        page.get_by_text("Line 2 of records.jsonl").wait_for()
        page.keyboard.press("n")
        page.get_by_text("1 kept · 0 rejected").wait_for()
        page.locator("#status").select_option("open")
        page.get_by_text("119 of 120").wait_for()
        page.locator("#task").select_option("=task 1")
        page.locator("#low").fill("100")
        page.get_by_text("10 of 120").wait_for()
        page.keyboard.press("Escape")
        page.keyboard.press("e")
        area = page.get_by_label("messages[0].content")
        area.fill("a better question\nof two lines")
        page.keyboard.press("Control+Enter")
        page.get_by_text("1 mended").wait_for()
        page.keyboard.press("y")
        page.get_by_text("9 of 120").wait_for()
        page.keyboard.press("/")
        page.keyboard.type("question 117")
        page.get_by_text("1 of 120").wait_for()
        page.keyboard.press("Escape")
        page.keyboard.press("j")
        page.locator("#record textarea").fill("{")
        page.keyboard.press("Control+Enter")
        page.get_by_text("the text is not a JSON object").wait_for()
        page.keyboard.press("Escape")
        page.locator("#locale").click()
        page.get_by_text("保留 2 · 拒绝 0 · 修改 1").wait_for()
    assert [edit.get("status") for edit in edits(file)] == ["keep", "reject", "", None, "keep"]
    assert edits(file)[3]["record"]["messages"][0]["content"] == "a better question\nof two lines"


def test_hostile_and_long_records_are_text(browser: "Browser", url: str) -> None:  # noqa: F811
    """Markup, control characters and a million characters are shown as text, on a dark phone in Chinese too."""
    phone = {"locale": "zh-CN", "viewport": {"width": 390, "height": 780}, "color_scheme": "dark", "has_touch": True}
    for options in ({}, phone):
        with page_of(browser, url, **options) as page:
            page.locator("#next").click()
            page.get_by_text("U+202E").first.wait_for()
            assert (
                "<img src=x onerror" in page.locator("#record").inner_text()
                and "U+0000" in page.locator("#record").inner_text()
            )
            page.locator("#next").click()
            page.locator(".more").click()
            page.locator(".more").wait_for(state="detached")
            assert page.locator("#record").evaluate("element => element.textContent.endsWith('end')")
            page.locator("#next").click()
            page.get_by_text("U+D800").first.wait_for()
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
            if options:
                page.locator("#menu").click()
                page.locator("#list").get_by_text("question 7").click()
                page.get_by_text("第 8 行 · records.jsonl").wait_for()


def test_only_the_page_with_the_token_is_answered(url: str) -> None:
    """Without the token, under another host's name or with another type of content, nothing is read or changed."""
    key = {"Authorization": f"Bearer {TOKEN}"}
    with httpx.Client(base_url=url) as client:
        assert client.get("/").status_code == 200 and "question" not in client.get("/").text
        for path in ("/api/summary", "/api/records", "/api/record?id=0"):
            assert (
                client.get(path).status_code
                == client.get(path, headers={"Authorization": "Bearer x"}).status_code
                == 401
            )
            assert client.get(path, headers={**key, "Host": "evil.example"}).status_code == 403
            assert client.get(path, headers=key).status_code == 200
        change = {
            "id": 0,
            "version": client.get("/api/record?id=0", headers=key).json()["version"],
            "change": {"status": "keep"},
        }
        assert client.post("/api/change", json=change).status_code == 401
        plain = {**key, "Content-Type": "text/plain"}
        assert client.post("/api/change", content=json.dumps(change), headers=plain).status_code == 415
        assert client.post("/api/change", json=[1], headers=key).status_code == 400
        assert client.post("/api/change", json={**change, "id": 999}, headers=key).status_code == 409
        assert client.get("/api/record?id=999", headers=key).status_code == 404
        assert client.get("/api/nothing", headers=key).status_code == 404
        assert client.get("/api/records?at=-5&n=99999&low=x", headers=key).json()["total"] == 120
        assert client.post("/api/change", json=change, headers=key).json()["status"] == "keep"


def test_the_command_writes_the_result(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`babyllm records FILE --write=OUT` writes the file; wrong flags are errors."""
    run(["records", str(file), f"--write={tmp_path / 'out.jsonl'}"])
    assert "120 of 120 records" in capsys.readouterr().out
    assert (tmp_path / "out.jsonl").read_bytes() == file.read_bytes()
    with pytest.raises(UserError, match="--only_kept"):
        run(["records", str(file), "--only_kept"])
