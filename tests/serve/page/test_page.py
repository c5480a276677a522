"""The chat page in a real browser, against a server whose answers are written down here."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from page_fixtures import SECRET, Open, StandIn, answer_to, finished, say

from babyllm.tokenizer import Tokenizer

if TYPE_CHECKING:
    from model_fixtures import Tiny

pytestmark = pytest.mark.slow


def test_an_answer_streams_in_and_is_asked_for_with_the_settings(visit: Open, server: StandIn) -> None:
    """The answer appears piece by piece, its speed is shown, and the request holds the settings."""
    page = visit()
    page.locator("#open-settings").click()
    page.locator("#system").fill("Be brief.")
    page.locator("#temperature").fill("1.25")
    page.locator("#close-settings").click()
    server.n_free = 3
    server.is_open.clear()
    say(page, "hello")
    page.locator(".writing .body", has_text="You said").wait_for()
    assert "好" not in page.locator(".writing .body").inner_text()
    server.is_open.set()
    assert finished(page) == answer_to("hello", 2)
    assert re.fullmatch(r"[\d.]+ tokens/s · \d+ tokens · first after [\d.]+ s", page.locator(".stats").inner_text())
    (asked,) = server.asked
    assert asked["messages"] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hello"}]
    sampling = {"temperature": 1.25, "top_p": 1, "top_k": 50, "max_tokens": 512}
    wanted = {"model": "tiny", "stream": True, "logprobs": True, "top_logprobs": 5, **sampling}
    assert wanted.items() <= asked.items()
    assert page.locator("#announcer").text_content() == answer_to("hello", 2)


def test_stop_keeps_the_answer_so_far_and_frees_the_server(visit: Open, server: StandIn) -> None:
    """The stop button ends an answer in its middle: its beginning stays, and the server sees the client leave."""
    page = visit()
    server.delay = 0.01
    say(page, "long")
    page.locator(".writing .body", has_text="0 1 2 3").wait_for()
    page.get_by_role("button", name="Stop").click()
    said = finished(page)
    assert said.startswith("0 1 2 3") and " 1999" not in said
    assert "stopped early" in page.locator(".assistant footer").inner_text()
    page.get_by_role("button", name="Send", exact=True).wait_for()
    for _ in range(200):
        if server.n_left:
            break
        time.sleep(0.01)
    assert server.n_left == 1


def test_another_answer_takes_the_place_of_the_last(visit: Open, server: StandIn) -> None:
    """Regenerating asks again with the same messages and leaves one answer."""
    page = visit()
    say(page, "hello")
    finished(page)
    page.get_by_role("button", name="Another answer").click()
    assert finished(page) == answer_to("hello")
    assert page.locator(".assistant").count() == 1
    assert server.asked[0] == server.asked[1] and len(server.asked) == 2


def test_an_edited_message_replaces_what_followed(visit: Open, server: StandIn) -> None:
    """Editing the first message and sending it drops the messages after it."""
    page = visit()
    for number, text in enumerate(["one", "two"]):
        say(page, text)
        finished(page, number + 1)
    page.get_by_role("button", name="Edit and send again").first.click()
    say(page, "three")
    page.locator(".body", has_text="You said 'three'").wait_for()
    assert server.asked[-1]["messages"] == [{"role": "user", "content": "three"}]
    assert page.locator(".user").count() == 1


def test_conversations_survive_a_reload(visit: Open, server: StandIn) -> None:
    """After a reload the conversation is there, goes on, and others can be made, opened, deleted, restored."""
    page = visit()
    say(page, "first")
    finished(page)
    page.get_by_role("button", name="New chat").click()
    say(page, "second")
    finished(page)
    page.reload()
    assert finished(page) == answer_to("second")
    titles = page.locator("#history li")
    assert [title.strip() for title in titles.all_inner_texts()] == ["second", "first"]
    titles.get_by_text("first").click()
    say(page, "third")
    assert finished(page, 2) == answer_to("third", 3)
    page.get_by_role("button", name="Delete: first").click()
    assert [title.strip() for title in titles.all_inner_texts()] == ["second"]
    page.get_by_role("button", name="Undo").click()
    assert finished(page, 2) == answer_to("third", 3)
    page.get_by_role("button", name="Delete: first").click()
    page.reload()
    page.locator("#welcome").wait_for()
    assert [title.strip() for title in titles.all_inner_texts()] == ["second"]


def test_a_reload_in_mid_answer_keeps_its_beginning(visit: Open, server: StandIn) -> None:
    """Reloading while the answer is written keeps what had come."""
    page = visit()
    server.delay = 0.02
    say(page, "long")
    page.locator(".writing .body", has_text="0 1 2 3").wait_for()
    page.reload()
    page.locator(".assistant .body", has_text="0 1 2 3").wait_for()


def test_choosing_a_word_in_a_chinese_input_method_does_not_send(visit: Open, server: StandIn) -> None:
    """Enter during a composition stays with the input method; the composed text is sent by the next Enter."""
    page = visit()
    page.locator("#input").focus()
    ime = page.context.new_cdp_session(page)
    ime.send("Input.imeSetComposition", {"text": "nihao", "selectionStart": 5, "selectionEnd": 5})
    page.keyboard.press("Enter")
    page.locator("#input").dispatch_event("keydown", {"key": "Enter", "keyCode": 229})
    assert server.asked == [] and page.locator(".user").count() == 0
    page.locator("#input").fill("")
    ime.send("Input.insertText", {"text": "你好"})
    page.keyboard.press("Shift+Enter")
    ime.send("Input.insertText", {"text": "世界"})
    assert page.locator("#input").input_value() == "你好\n世界"
    page.keyboard.press("Enter")
    finished(page)
    assert server.asked[0]["messages"] == [{"role": "user", "content": "你好\n世界"}]


@pytest.mark.parametrize("probabilities", [False, True])
def test_what_the_model_writes_is_never_markup(visit: Open, probabilities: bool) -> None:
    """Tags, handlers and scripts in an answer are shown as text, as Markdown and as tokens, live and after a reload."""
    page = visit()
    if probabilities:
        page.locator("#probabilities").click()
    say(page, "attack")
    finished(page)
    page.reload()
    said = finished(page)
    assert '<img src=x onerror="window.hacked=1">' in said.replace("↵", "").replace("\n", "")
    assert page.locator("#messages img, #messages script, #messages a, #messages i, #messages b").count() == 0
    assert page.evaluate("window.hacked") is None
    if not probabilities:
        assert page.locator(".body pre code").inner_text() == '<img src=x onerror="window.hacked=1">'
        assert page.locator(".body p strong").inner_text() == "<i>bold</i>"


def test_alternatives_are_shown_for_a_token(visit: Open) -> None:
    """With the switch on, pointing at a token, tapping it or an arrow key shows what else was likely, in percent."""
    page = visit(has_touch=True)
    say(page, "hello")
    finished(page)
    assert page.locator(".tokens").count() == 0
    page.get_by_role("button", name="Show token probabilities").click()
    panel = page.locator("#alternatives")
    page.locator(".tokens span", has_text="said").hover()
    rows = [re.sub(r"\s+", " ", row).strip() for row in panel.locator("div").all_inner_texts()]
    assert rows == ["▸ ␣said 60.0 %", "␣other 25.0 %", "↵ 10.0 %", "别 4.0 %", "␣ < 0.01 %"]
    page.mouse.move(5, 700)
    panel.wait_for(state="hidden")
    page.locator(".tokens span", has_text="好").tap()
    assert "▸ 好" in panel.inner_text()
    page.keyboard.press("ArrowRight")
    assert "▸ ！" in panel.inner_text()


def test_language_and_theme_follow_the_system_and_can_be_switched(visit: Open) -> None:
    """A Chinese browser in the dark gets a Chinese dark page; both switches work and are remembered."""
    page = visit(locale="zh-CN", color_scheme="dark")
    background = "getComputedStyle(document.body).backgroundColor"
    assert page.locator("#input").get_attribute("placeholder") == "想聊点什么？"
    assert page.locator("html").get_attribute("lang") == "zh-CN"
    dark = page.evaluate(background)
    page.locator("#theme").click()
    page.get_by_role("button", name="English").click()
    page.reload()
    page.get_by_role("heading", name="What shall we talk about?").wait_for()
    assert page.evaluate(background) != dark
    page.get_by_role("button", name="中文").click()
    assert page.get_by_role("button", name="新对话").is_visible()


def test_every_string_is_there_in_both_languages(visit: Open) -> None:
    """The two columns of the string table have the same keys, and texts of the same kind."""
    kinds = "language => Object.fromEntries(Object.entries(STRINGS[language]).map(([key, v]) => [key, typeof v]))"
    page = visit()
    english, chinese = (page.evaluate(f"({kinds})({language!r})") for language in ("en", "zh"))
    assert english == chinese


@pytest.mark.parametrize("width", [360, 390])
def test_a_phone_needs_no_sideways_scrolling(visit: Open, width: int) -> None:
    """At a phone's width nothing is wider than the screen: long words, code, settings, history."""
    page = visit(viewport={"width": width, "height": 740}, has_touch=True, is_mobile=True)
    is_fitting = f"document.documentElement.scrollWidth <= {width} && innerWidth <= {width}"
    say(page, "wide")
    finished(page)
    inside = (
        "selector => [...document.querySelectorAll(selector)].every(e => e.getBoundingClientRect().right <= innerWidth)"
    )
    for probabilities in (False, True):
        assert page.evaluate(is_fitting)
        assert page.evaluate(inside, "#messages *:not(pre *), #composer *, header *")
        assert page.evaluate("document.querySelector('#scroller').scrollWidth") <= width
        if not probabilities:
            page.locator("#probabilities").tap()
    page.locator("#menu").tap()
    page.get_by_role("button", name="Delete: wide").wait_for()
    assert page.evaluate(is_fitting)
    page.keyboard.press("Escape")
    page.locator("#open-settings").tap()
    page.locator("#max_tokens").wait_for()
    assert page.evaluate(is_fitting) and page.evaluate(inside, "#settings *")


def test_the_text_box_grows_with_its_text(visit: Open) -> None:
    """Several lines make the box higher, up to a part of the screen; sending makes it small again."""
    page = visit()
    height = "document.querySelector('#input').getBoundingClientRect().height"
    one = page.evaluate(height)
    page.locator("#input").fill("a\nb\nc\nd")
    four = page.evaluate(height)
    page.locator("#input").fill("a\n" * 100)
    assert one * 2 < four < page.evaluate(height) < 750 / 2
    page.locator("#input").press("Enter")
    assert page.evaluate(height) == one


def test_a_busy_server_is_asked_again_on_request(visit: Open) -> None:
    """429 is shown in the conversation with the server's words, and trying again answers the same message."""
    page = visit()
    say(page, "busy")
    page.get_by_role("alert").get_by_text("The queue is full.").wait_for()
    page.get_by_role("button", name="Try again").click()
    assert finished(page) == answer_to("busy")
    assert page.get_by_role("alert").count() == 0


def test_the_key_is_asked_for_and_kept_for_the_tab(visit: Open) -> None:
    """401 asks for the API key; a wrong one is asked for again, the right one is kept in sessionStorage alone."""
    page = visit()
    say(page, "secret")
    for key, told in [("wrong", "asks for an API key"), (SECRET, "does not accept")]:
        page.get_by_role("alert").get_by_text(told).wait_for()
        page.get_by_label("API key").fill(key)
        page.get_by_role("button", name="Use this key").click()
    assert finished(page) == answer_to("secret")
    assert page.evaluate("sessionStorage['babyllm.key']") == SECRET
    assert SECRET not in page.evaluate("JSON.stringify(localStorage)")


def test_a_lost_connection_keeps_the_answer_so_far(visit: Open) -> None:
    """A connection that breaks in mid-answer leaves its beginning on the page and offers to try again."""
    page = visit()
    say(page, "lost")
    page.get_by_role("alert").get_by_text("connection ended").wait_for()
    assert page.locator(".assistant .body").inner_text() == answer_to("lost")[:10]
    page.get_by_role("button", name="Try again").click()
    page.get_by_role("alert").wait_for(state="detached")
    assert finished(page) == answer_to("lost")


def test_a_stream_without_an_end_mark_keeps_its_text(visit: Open) -> None:
    """A server that stops before [DONE] leaves the answer so far, marked as stopped."""
    page = visit()
    say(page, "cut")
    assert finished(page) == answer_to("cut")[:10]
    assert "stopped early" in page.locator(".assistant footer").inner_text()
    assert page.get_by_role("alert").count() == 0


def test_without_a_network_the_message_stays(visit: Open) -> None:
    """A message that could not be sent is kept, reported, and sent by trying again."""
    page = visit()
    page.context.set_offline(True)
    say(page, "hello")
    page.get_by_role("alert").get_by_text("cannot be reached").wait_for()
    assert page.locator(".user .body").inner_text() == "hello"
    page.context.set_offline(False)
    page.get_by_role("button", name="Try again").click()
    assert finished(page) == answer_to("hello")


def test_the_oldest_exchanges_make_room_for_the_newest(visit: Open, server: StandIn) -> None:
    """Old messages that no longer fit the context are left out; a line marks where, and overlong ones are refused."""
    page = visit()
    server.room = 3
    for number, text in enumerate(["one", "two", "three"]):
        say(page, text)
        finished(page, number + 1)
    assert [len(asked["messages"]) for asked in server.asked] == [1, 3, 5, 3]
    assert server.asked[-1]["messages"][0] == {"role": "user", "content": "two"}
    order = page.locator("#messages > *").evaluate_all("nodes => nodes.map((node) => node.tagName)")
    assert order == ["ARTICLE", "ARTICLE", "P", *["ARTICLE"] * 4]
    server.room = 0
    say(page, "four")
    page.get_by_role("alert").get_by_text("Make it shorter.").wait_for()
    assert len(server.asked[-1]["messages"]) == 1


def test_a_rating_is_sent_with_its_conversation(visit: Open, server: StandIn) -> None:
    """A thumb sends the messages up to its answer, and stays pressed after a reload."""
    page = visit()
    for number, text in enumerate(["one", "two"]):
        say(page, text)
        finished(page, number + 1)
    page.get_by_role("button", name="Bad answer").first.click()
    page.get_by_text("rating is stored").wait_for()
    said = [{"role": "user", "content": "one"}, {"role": "assistant", "content": answer_to("one")}]
    assert server.rated == [{"messages": said, "rating": -1}]
    page.reload()
    finished(page, 2)
    assert page.get_by_role("button", name="Bad answer").first.get_attribute("aria-pressed") == "true"
    assert page.get_by_role("button", name="Good answer").first.get_attribute("aria-pressed") == "false"


def test_every_control_has_a_name(visit: Open, server: StandIn) -> None:
    """Whatever can be focused says what it is: text, label or aria-label; in a comparison and in the menus, too."""
    server.others, server.finish = ["other"], "length"
    server.reasonings["wide"] = "thought"
    page = visit()
    say(page, "wide")
    finished(page)
    page.get_by_role("button", name="Compare two models or settings").click()
    say(page, "hello")
    page.locator(".pair .stats").nth(1).wait_for()
    page.locator("#sides button").first.click()
    nameless = """[...document.querySelectorAll('button, input, textarea, select, summary')].filter((e) =>
        !e.getAttribute('aria-label') && !e.innerText.trim() && !e.labels?.length && !e.textContent.trim())"""
    assert page.evaluate(f"{nameless}.map((e) => e.outerHTML)") == []
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map((e) => e.id)")
    assert len(ids) == len(set(ids))


def test_the_page_and_the_real_server_understand_each_other(
    visit: Open, tokenizer: Tokenizer, tiny: Tiny, tmp_path: Path
) -> None:
    """Answers are those the API returns, however odd their characters; key, ratings and a full context work."""
    serve = pytest.importorskip("serve_fixtures")
    load = serve.load_of(serve.talkative(tiny(max_seq_len=64)), tokenizer, serve.chatml(tokenizer))
    with serve.serving(load, api_key=SECRET, feedback=tmp_path / "rated.jsonl") as server:
        page = visit(f"{server.url}/", name="asks for an API key")
        page.get_by_label("API key").fill(SECRET)
        page.get_by_role("button", name="Use this key").click()
        page.get_by_role("heading", name=serve.NAME).wait_for()
        page.locator("#open-settings").click()
        page.locator("#temperature").fill("0")
        page.locator("#max_tokens").fill("16")
        page.locator("#close-settings").click()
        for number, text in enumerate(["the model reads one token after another", "公园看书", "小说的生活"]):
            say(page, text)
            page.locator(".assistant:not(.writing)").nth(number).wait_for()
        page.get_by_role("button", name="Good answer").first.click()
        page.get_by_text("rating is stored").wait_for()
        messages = page.evaluate("chat.messages")
        assert messages[-1]["skipped"] > 0
        rated = json.loads((tmp_path / "rated.jsonl").read_text())["messages"]
        assert [one["content"] for one in rated] == [one["content"] for one in messages[:2]]
        with server.openai() as client:
            first = [{"role": "user", "content": messages[0]["content"]}]
            whole = client.chat.completions.create(
                model=serve.NAME, messages=first, temperature=0, max_tokens=16, logprobs=True
            )
        (choice,) = whole.choices
        assert messages[1]["content"] == choice.message.content != ""
        told = [token.logprob for token in choice.logprobs.content]
        assert [token[1] for token in messages[1]["tokens"]] == pytest.approx(told, abs=1e-3)
        assert all(len(token[2]) == 5 for token in messages[1]["tokens"])
