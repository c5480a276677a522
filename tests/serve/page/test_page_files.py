"""Conversations as files, and files in the message, in a real browser."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from page_fixtures import Open, StandIn, finished, say

from babyllm.chat.formats import FormatConfig, to_conversation

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.slow

TOOL = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
CHATS: list[dict[str, Any]] = [
    {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "第一个问题"},
            {"role": "assistant", "content": "**A**\n\n```\nx\n```", "reasoning_content": "hm"},
        ]
    },
    {
        "messages": [
            {"role": "user", "content": "second"},
            {"role": "assistant", "content": "", "tool_calls": [TOOL]},
            {"role": "tool", "content": "42", "tool_call_id": "c1"},
            {"role": "assistant", "content": "It is 42."},
        ]
    },
]


def more(page: Page, name: str) -> None:
    page.get_by_role("button", name="Export and import").click()
    page.get_by_role("button", name=name).click()


def saved(page: Page, name: str) -> tuple[str, str]:
    """Name and text of the file that a button of the menu saves."""
    with page.expect_download() as found:
        more(page, name)
    return found.value.suggested_filename, Path(found.value.path()).read_text(encoding="utf-8")


def lines(records: list[dict[str, Any]]) -> str:
    return "".join(f"{json.dumps(one, ensure_ascii=False)}\n" for one in records)


def opened(page: Page, *texts: str | bytes) -> None:
    files = [
        {"name": f"{i}.jsonl", "mimeType": "", "buffer": text if isinstance(text, bytes) else text.encode()}
        for i, text in enumerate(texts)
    ]
    page.locator("#import-file").set_input_files(files)


def test_what_is_saved_is_what_fine_tuning_reads(visit: Open, server: StandIn) -> None:
    """A conversation and all of them are saved as lines that `babyllm sft` reads, in the versions on the screen."""
    page = visit()
    page.locator("#open-settings").click()
    page.locator("#system").fill("Be brief.")
    page.locator("#close-settings").click()
    server.reasonings["hello"] = "think"
    server.answers["hello"] = "first"
    say(page, "hello")
    finished(page)
    server.answers["hello"] = "better"
    page.get_by_role("button", name="Another answer").click()
    page.get_by_text("2/2").wait_for()
    finished(page)
    name, text = saved(page, "Save chat as JSON lines")
    assert name == "hello.jsonl"
    (record,) = map(json.loads, text.splitlines())
    assert record["messages"][-1] == {"role": "assistant", "content": "better", "reasoning_content": "think"}
    conversation = to_conversation(record, FormatConfig(), task="t", id="1")
    assert [(one.role, one.content) for one in conversation.messages][:2] == [
        ("system", "Be brief."),
        ("user", "hello"),
    ]
    assert "better" in conversation.messages[-1].content
    page.get_by_role("button", name="New chat").click()
    say(page, "other")
    finished(page)
    name, text = saved(page, "Save all chats as JSON lines")
    assert name == "babyllm.jsonl"
    assert [json.loads(line)["messages"][1]["content"] for line in text.splitlines()] == ["hello", "other"]


def test_opened_conversations_are_saved_as_they_were(visit: Open) -> None:
    """What a file holds is shown, survives a reload, goes on, and is saved again unchanged."""
    page = visit()
    opened(page, lines(CHATS))
    page.get_by_text("2 conversations opened.").wait_for()
    assert (
        page.locator(".assistant .body strong").inner_text() == "A" and page.locator("details.reasoning").count() == 1
    )
    page.reload()
    _, text = saved(page, "Save all chats as JSON lines")
    assert [json.loads(line) for line in text.splitlines()] == CHATS
    page.locator("#history li", has_text="second").click()
    page.locator(".tool", has_text="42").wait_for()
    say(page, "go on")
    finished(page)


def test_a_conversation_is_saved_as_markdown(visit: Open) -> None:
    """The file has a heading for each message, and the answers as they were written."""
    page = visit()
    opened(page, json.dumps(CHATS[0]["messages"]))
    page.locator(".assistant strong").wait_for()
    name, text = saved(page, "Save chat as Markdown")
    assert name == "第一个问题.md"
    assert text == (
        "# 第一个问题\n\n## System prompt\n\nBe brief.\n\n## You\n\n第一个问题\n\n## Assistant\n\n"
        "<details><summary>Reasoning</summary>\n\nhm\n\n</details>\n\n**A**\n\n```\nx\n```\n"
    )


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"messages": [{"role": "user"', "line 1 is not JSON"),
        ("[1]", "record 1 has no list of messages"),
        ('{"messages": []}', "record 1 has no list of messages"),
        ('{"messages": [{"role": "user", "content": "x"}]}\n{"messages": [{"role": "cat"}]}', "message 1 of record 2"),
        ('{"messages": [{"role": "user", "content": {"a": 1}}]}', "message 1 of record 1"),
        (b"\x00\x01\x02", "is not a text file"),
    ],
)
def test_files_that_hold_no_conversations_are_told(visit: Open, text: str | bytes, told: str) -> None:
    """The first record that cannot be read is named; the others are opened."""
    page = visit()
    opened(page, text)
    page.locator("#toast", has_text=told).wait_for()
    assert page.locator("#history li").count() == (1 if "record 2" in told else 0)


def test_what_there_is_no_room_for_is_counted(visit: Open) -> None:
    """Conversations are opened until the browser is full; those before them lose nothing."""
    page = visit()
    say(page, "hello")
    finished(page)
    tokens = page.evaluate("chat.messages[1].tokens.length")
    large = {"messages": [{"role": "user", "content": "x" * 900_000}, {"role": "assistant", "content": "y"}]}
    opened(page, lines([large] * 8))
    page.locator("#toast", has_text="The browser has no room for").wait_for()
    kept = page.locator("#history li").count()
    assert 2 < kept < 8
    page.reload()
    assert page.locator("#history li").count() == kept
    page.locator("#history li", has_text="hello").click()
    assert page.evaluate("chat.messages[1].tokens.length") == tokens > 0


def test_an_imported_answer_is_never_markup(visit: Open) -> None:
    """Names, tags and addresses in a file are shown as text."""
    page = visit()
    evil = "<img src=x onerror='window.hacked=1'> [a](javascript:window.hacked=1)"
    messages = [{"role": "user", "content": evil}, {"role": "assistant", "content": evil, "reasoning_content": evil}]
    messages[1]["tool_calls"] = [{"id": evil, "function": {"name": evil, "arguments": {"a": evil}}}]
    opened(page, lines([{"messages": messages}]))
    page.locator(".calls").wait_for()
    page.locator("summary").click()
    page.locator(".thought p").wait_for()
    assert page.locator("#messages img, #messages a, #history img").count() == 0
    assert page.evaluate("window.hacked") is None


FILES = [
    ("notes.txt", "第一行\r\n第二行".encode(), "第一行\n第二行"),
    ("gbk.txt", "中文文本文件".encode("gb18030"), "中文文本文件"),
    ("utf16.txt", "两个字节".encode("utf-16"), "两个字节"),
    ("a.py", b"x = '```'\n", "a.py\n````py\nx = '```'\n````"),
]


def test_text_files_are_put_into_the_message(visit: Open, server: StandIn) -> None:
    """Chosen files are added to what was typed: text as it is, whatever its encoding, code in a fence."""
    page = visit()
    page.locator("#input").fill("Read this:")
    page.locator("#attach-file").set_input_files(
        [{"name": name, "mimeType": "", "buffer": content} for name, content, _ in FILES]
    )
    wanted = "\n\n".join(["Read this:", *(text for *_, text in FILES)])
    page.wait_for_function("text => document.querySelector('#input').value.trim() === text", arg=wanted)
    assert page.locator("#input").evaluate("node => node === document.activeElement")
    page.keyboard.press("Enter")
    finished(page)
    assert server.asked[-1]["messages"][0]["content"].strip() == wanted


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"x" * 300_000, "a.bin: has 293 KB; at most 256 KB can be read."),
        (b"\x89PNG\r\n\x1a\n\x00\x00", "a.bin: is not a text file."),
        (b"  \n", "a.bin: is empty."),
    ],
)
def test_files_that_cannot_be_put_into_the_message_are_told(visit: Open, content: bytes, told: str) -> None:
    """A file that is too large, empty or no text is named with the reason, and the message stays as it was."""
    page = visit()
    page.locator("#input").fill("typed")
    page.locator("#attach-file").set_input_files([{"name": "a.bin", "mimeType": "", "buffer": content}])
    page.locator("#toast", has_text=told).wait_for()
    assert page.locator("#input").input_value().strip() == "typed"


def test_a_file_is_dropped_anywhere(visit: Open) -> None:
    """While a file is dragged over the page it says what a drop does; the dropped file is put into the message."""
    page = visit()
    drag = """(kind) => {
      const data = new DataTransfer();
      data.items.add(new File(["dropped text"], "notes.txt", { type: "text/plain" }));
      document.body.dispatchEvent(new DragEvent(kind, { dataTransfer: data, bubbles: true, cancelable: true }));
    }"""
    page.evaluate(drag, "dragover")
    page.get_by_text("Drop text files").wait_for()
    page.evaluate(drag, "drop")
    page.wait_for_function("document.querySelector('#input').value.includes('dropped text')")
    assert page.locator("#drop").is_hidden()


def test_a_file_is_pasted(visit: Open) -> None:
    """A file from the clipboard is put into the message; text from it is pasted as ever."""
    page = visit()
    paste = """(kind) => {
      const data = new DataTransfer();
      if (kind === "file") data.items.add(new File(["from a file"], "notes.txt", { type: "text/plain" }));
      else data.setData("text/plain", "as text");
      const event = new ClipboardEvent("paste", { clipboardData: data, bubbles: true, cancelable: true });
      return document.querySelector("#input").dispatchEvent(event);
    }"""
    assert page.evaluate(paste, "text") is True
    assert page.evaluate(paste, "file") is False
    page.wait_for_function("document.querySelector('#input').value.includes('from a file')")


def test_the_menu_is_used_with_the_keyboard(visit: Open, server: StandIn) -> None:
    """The menu opens and closes by keys, and Escape in it stops no answer."""
    page = visit()
    server.delay = 0.02
    say(page, "long")
    page.locator(".writing .body", has_text="0 1 2").wait_for()
    page.get_by_role("button", name="Export and import").press("Enter")
    page.locator("#files").wait_for()
    page.keyboard.press("Tab")
    page.keyboard.press("Escape")
    page.locator("#files").wait_for(state="hidden")
    assert page.locator(".writing").count() == 1
    page.keyboard.press("Escape")
    page.locator(".writing").wait_for(state="detached")
