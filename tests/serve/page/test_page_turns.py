"""What the chat page keeps: answers and questions beside each other, whatever fails, in whatever browser."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest
from page_fixtures import Open, StandIn, answer_to, finished, say

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.slow

FAILURES = [(500, "broken", ""), (429, "wait", "queue_full"), (503, "bye", "shutting_down"), (400, "no", "")]
NO_STORAGE = """for (const name of ["localStorage", "sessionStorage"])
  Object.defineProperty(window, name, { get() { throw new DOMException("no", "SecurityError"); } });"""
FULL_STORAGE = """const put = Storage.prototype.setItem;
Storage.prototype.setItem = function (key, value) {
  if (key.startsWith("babyllm.chat.") && value.length > 3000) throw new DOMException("full", "QuotaExceededError");
  put.call(this, key, value);
};"""


def answers(page: Page) -> list[str]:
    return page.locator(".assistant .body").all_inner_texts()


def questions(page: Page) -> list[str]:
    return page.locator(".user .body").all_inner_texts()


def another(page: Page) -> None:
    page.get_by_role("button", name="Another answer").click()


def edit_first(page: Page, text: str) -> None:
    page.get_by_role("button", name="Edit and send again").first.click()
    say(page, text)


def turns(page: Page) -> list[str]:
    return page.locator(".turns > span").all_inner_texts()


def test_an_answer_stays_until_another_has_begun(visit: Open, server: StandIn) -> None:
    """While another answer is waited for the first stays, after a stop, too; then all can be leafed through."""
    page = visit()
    server.answers["hello"] = "The first."
    say(page, "hello")
    finished(page)
    server.is_open.clear()
    another(page)
    page.locator(".leaving").wait_for()
    assert answers(page) == ["The first."]
    page.get_by_role("button", name="Stop").click()
    assert finished(page) == "The first."
    assert page.get_by_role("alert").count() == 0 and turns(page) == []
    server.is_open.set()
    for number, text in enumerate(["The second.", "The third."]):
        server.answers["hello"] = text
        another(page)
        page.get_by_text(f"{number + 2}/{number + 2}").wait_for()
        assert finished(page) == text
    page.get_by_role("button", name="Previous version").click()
    assert answers(page) == ["The second."] and turns(page) == ["2/3"]
    page.reload()
    assert finished(page) == "The second." and turns(page) == ["2/3"]
    page.keyboard.press("Tab")
    page.get_by_role("button", name="Previous version").press("Enter")
    assert answers(page) == ["The first."] and page.get_by_role("button", name="Previous version").is_disabled()
    assert page.get_by_role("button", name="Next version").evaluate("node => node === document.activeElement")
    say(page, "and now?")
    assert finished(page, 2) == answer_to("and now?", 3)
    assert [message["content"] for message in server.asked[-1]["messages"]] == ["hello", "The first.", "and now?"]


def test_no_failure_takes_an_answer_away(visit: Open, server: StandIn) -> None:
    """Whatever the server or the network does to a request for another answer, the first one stays, and is stored."""
    page = visit()
    server.answers["hello"] = "The first."
    say(page, "hello")
    finished(page)
    for refusal in [*FAILURES, None]:
        if refusal:
            server.refusals["hello"] = refusal
        page.context.set_offline(refusal is None)
        another(page)
        page.get_by_role("alert").wait_for()
        assert finished(page) == "The first."
        page.context.set_offline(False)
        page.reload()
        assert finished(page) == "The first." and page.get_by_role("alert").count() == 0
    server.refusals.clear()
    another(page)
    page.get_by_text("2/2").wait_for()


def test_an_edited_question_stands_beside_the_first(visit: Open, server: StandIn) -> None:
    """What followed a question stays until the edited one has an answer; a failed edit goes back into the box."""
    page = visit()
    for number, text in enumerate(["one", "two"]):
        say(page, text)
        finished(page, number + 1)
    server.refusals["uno"] = FAILURES[0]
    edit_first(page, "uno")
    page.get_by_role("alert").wait_for()
    assert questions(page) == ["one", "two"] and page.locator("#input").input_value() == "uno"
    page.reload()
    assert questions(page) == ["one", "two"] and len(answers(page)) == 2
    assert page.locator("#input").input_value() == "uno"
    del server.refusals["uno"]
    edit_first(page, "uno")
    page.get_by_text("2/2").wait_for()
    finished(page)
    assert questions(page) == ["uno"] and answers(page) == [answer_to("uno")]
    page.get_by_role("button", name="Previous version").click()
    assert questions(page) == ["one", "two"] and answers(page) == [answer_to("one"), answer_to("two", 3)]


def test_an_edit_can_be_tried_again(visit: Open, server: StandIn) -> None:
    """After a failure the button sends what is in the box; what was in it before the edit comes back in the end."""
    page = visit()
    say(page, "one")
    finished(page)
    page.locator("#input").fill("half a tho")
    server.refusals["uno"] = FAILURES[0]
    edit_first(page, "uno")
    page.get_by_role("alert").wait_for()
    server.refusals.clear()
    page.get_by_role("button", name="Try again").click()
    page.get_by_text("2/2").wait_for()
    assert page.locator("#input").input_value() == "half a tho"
    assert questions(page) == ["uno"]


def test_a_question_that_waits_can_be_stopped(visit: Open, server: StandIn) -> None:
    """Stopped before its answer has begun, a question stays and can be sent again."""
    page = visit()
    server.is_open.clear()
    say(page, "hello")
    page.locator(".writing").wait_for()
    page.get_by_role("button", name="Stop").click()
    page.get_by_text("No answer yet.").wait_for()
    assert questions(page) == ["hello"]
    server.is_open.set()
    page.get_by_role("button", name="Try again").click()
    assert finished(page) == answer_to("hello") and turns(page) == []


@pytest.mark.parametrize("way", ["ask", "reload", "focus"])
def test_a_server_with_another_model_is_no_dead_end(visit: Open, server: StandIn, way: str) -> None:
    """The name of the model is asked again when it is not found, at a reload and when one comes back to the page."""
    page = visit()
    say(page, "hello")
    finished(page)
    server.model = "other"
    if way == "reload":
        page.reload()
    elif way == "focus":
        page.evaluate("dispatchEvent(new Event('focus'))")
    if way != "ask":
        page.get_by_role("heading", name="other chat").wait_for()
    another(page)
    page.get_by_text("2/2").wait_for()
    page.get_by_role("heading", name="other chat").wait_for()
    assert [asked["model"] for asked in server.asked if asked["model"] == "other"] == ["other"]
    assert page.get_by_role("alert").count() == 0


REFUSALS = [  # status, code, what the Chinese page offers
    (400, "context_length_exceeded", ["修改消息"]),
    (413, "body_too_large", ["修改消息"]),
    (413, "", ["修改消息"]),
    (429, "queue_full", ["重试"]),
    (503, "loading", ["重试"]),
    (503, "shutting_down", ["重试"]),
    (503, "engine_dead", ["重试"]),
    (400, "no_chat_template", []),
]


def test_refusals_are_told_in_the_language_of_the_page(visit: Open, server: StandIn) -> None:
    """A code of the server's has words of the page's own, and the buttons offer what helps and no more."""
    page = visit(locale="zh-CN")
    for status, code, buttons in REFUSALS:
        server.refusals[code] = status, "In English.", code
        server.refusals["问"] = status, "In English.", code
        say(page, "问")
        alert = page.get_by_role("alert")
        alert.wait_for()
        assert alert.get_by_role("button").all_inner_texts() == buttons, code
        if code:
            assert not re.search("[A-Za-z]", re.sub(r"v1/\w+", "", alert.inner_text())), code
        page.get_by_role("button", name="新对话").click()
    server.refusals["问"] = 400, "field: not known", ""
    say(page, "问")
    page.get_by_role("alert").get_by_text("field: not known").wait_for()
    assert page.get_by_role("alert").get_by_role("button").all_inner_texts() == ["重试", "修改消息"]


def test_a_question_that_is_too_long_is_edited(visit: Open, server: StandIn) -> None:
    """Where the context is too small the button brings the question back into the box, and its new form is answered."""
    page = visit()
    server.refusals["a long question"] = 400, "too long", "context_length_exceeded"
    say(page, "a long question")
    page.get_by_role("alert").get_by_role("button", name="Edit the message").click()
    assert page.locator("#input").input_value() == "a long question"
    assert page.get_by_role("button", name="Try again").count() == 0
    say(page, "short")
    assert finished(page) == answer_to("short")
    assert page.get_by_role("alert").count() == 0


@pytest.mark.parametrize(("n_tokens", "note"), [(40, "the context is full"), (512, "the longest answer")])
def test_what_ended_an_answer_is_told(visit: Open, server: StandIn, n_tokens: int, note: str) -> None:
    """An answer that ended before the length that was asked for ended with the context; no wait is shown as 0.0 s."""
    page = visit()
    server.finish, server.usage = "length", {"completion_tokens": n_tokens, "total_tokens": n_tokens + 20}
    server.answers["hello"] = "x"
    say(page, "hello")
    finished(page)
    footer = page.locator(".assistant footer").inner_text()
    assert note in footer
    assert float(re.findall(r"first after ([\d.]+) s", footer)[0]) > 0


@pytest.mark.parametrize(("storage", "told"), [(NO_STORAGE, ""), (FULL_STORAGE, "no room left")])
def test_a_browser_that_stores_nothing_can_chat(visit: Open, server: StandIn, storage: str, told: str) -> None:
    """Without storage, or where it is full, questions are answered; that a conversation is not kept is reported."""
    page = visit(script=storage)
    server.answers["hello"] = "word " * 800
    say(page, "hello")
    finished(page)
    if told:
        page.get_by_text(told).wait_for()
    say(page, "one")
    assert finished(page, 2) == answer_to("one", 3)
    page.get_by_role("button", name="New chat").click()
    assert page.locator("#history li").count() == 1


def test_two_tabs_add_to_one_conversation(visit: Open, server: StandIn) -> None:
    """What one tab adds while the other waits for an answer is kept beside that answer."""
    first = visit()
    say(first, "hello")
    finished(first)
    second = first.context.new_page()
    second.goto(server.url)
    second.locator("#history li").click()
    finished(second)
    server.is_open.clear()
    say(first, "from the first")
    first.locator(".writing").wait_for()
    server.is_open.set()
    say(second, "from the second")
    finished(second, 2)
    finished(first, 2)
    first.locator(".writing").wait_for(state="detached")
    first.reload()
    finished(first, 2)
    chat = json.loads(first.evaluate("localStorage[Object.keys(localStorage).find((key) => key.includes('.chat.'))]"))
    said = {message["content"] for message in chat["messages"]}
    assert {"from the first", "from the second", answer_to("from the first", 3)} <= said


def test_what_another_tab_writes_over_is_put_back(visit: Open, server: StandIn) -> None:
    """A tab that wrote at the same time, with an answer's beginning alone, gets the rest from the tab that has it."""
    first = visit()
    say(first, "hello")
    finished(first)
    second = first.context.new_page()
    second.goto(server.url)
    key = "Object.keys(localStorage).find((key) => key.includes('.chat.'))"
    second.evaluate(
        f"""() => {{
          const key = {key}, chat = JSON.parse(localStorage[key]), last = chat.messages.at(-1);
          last.content = last.content.slice(0, 3);
          localStorage[key] = JSON.stringify(chat);
        }}"""
    )
    first.wait_for_function(f"JSON.parse(localStorage[{key}]).messages.at(-1).content.length > 3")


def test_conversations_of_older_pages_are_read(visit: Open, server: StandIn) -> None:
    """A conversation that was stored as a list goes on, however long, with the newest messages the server takes."""
    page = visit()
    roles = ["user", "assistant"] * 150
    old = {"id": "a1", "updated": 1, "system": "Be brief.", "messages": []}
    old["messages"] = [{"role": role, "content": f"{role} {i}", "skipped": 0} for i, role in enumerate(roles)]
    page.evaluate("(old) => localStorage.setItem('babyllm.chat.a1', JSON.stringify(old))", old)
    page.evaluate("localStorage.setItem('babyllm.chat.bad', '{\"messages\": [1, null]}')")
    page.reload()
    page.locator("#history li").click()
    assert questions(page)[0] == "user 0" and len(answers(page)) == 150
    server.room = 256
    say(page, "hello")
    page.locator(".body", has_text="You said 'hello'").wait_for()
    assert len(server.asked[-1]["messages"]) == 254 and server.asked[-1]["messages"][-1]["content"] == "hello"


OLD_TREE = {  # as pages stored a conversation before answers could be continued and compared
    "id": "b2",
    "updated": 2,
    "system": "",
    "leaf": "m3",
    "messages": [
        {"id": "m1", "parent": None, "role": "user", "content": "old question"},
        {"id": "m2", "parent": "m1", "role": "assistant", "content": "first", "tokens": [], "skipped": 0, "note": ""},
        {
            **{"id": "m3", "parent": "m1", "role": "assistant", "content": "second $x$", "skipped": 0, "note": "cut"},
            **{"tokens": [["second", -0.1, []]], "stats": {"n": 1, "wait": 0.1, "speed": 3}, "rating": 1},
        },
    ],
}


def test_a_tree_of_an_older_page_goes_on(visit: Open, server: StandIn) -> None:
    """Versions, rating and statistics are there; the answer that was stopped can be continued, also in a comparison."""
    page = visit()
    page.evaluate("(old) => localStorage.setItem('babyllm.chat.b2', JSON.stringify(old))", OLD_TREE)
    page.evaluate("localStorage.setItem('babyllm.settings', JSON.stringify({language: 'zh', sampling: {top_k: 7}}))")
    page.reload()
    page.locator("#history li", has_text="old question").click()
    assert turns(page) == ["2/2"] and page.locator(".body math").count() == 1
    assert page.get_by_role("button", name="回答得好").get_attribute("aria-pressed") == "true"
    server.answers["old question"] = "second $x$ and more"
    page.get_by_role("button", name="继续").click()
    page.locator(".assistant .body", has_text="and more").wait_for()
    assert server.asked[-1]["top_k"] == 7 and turns(page) == ["2/2"]
    page.get_by_role("button", name="比较两个模型或两组设置").click()
    page.get_by_role("button", name="重新回答").click()
    page.locator(".pair .stats").nth(1).wait_for()
    page.locator(".turns", has_text="3/3").wait_for()


def test_a_page_that_is_left_comes_back_as_it_was(visit: Open, server: StandIn) -> None:
    """After going away and back, as after a reload, the conversation, its unfinished answer and the draft are there."""
    page = visit()
    server.delay = 0.02
    say(page, "long")
    page.locator(".writing .body", has_text="0 1 2 3").wait_for()
    page.locator("#input").fill("not yet sent")
    page.goto("about:blank")
    page.go_back()
    page.locator(".assistant .body", has_text="0 1 2 3").wait_for()
    assert "stopped early" in page.locator(".assistant footer").inner_text()
    assert page.locator("#input").input_value() == "not yet sent"
