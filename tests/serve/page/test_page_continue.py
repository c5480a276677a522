"""Unfinished answers that go on, reasoning, tool calls, examples and the choice of a model, in a real browser."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from model_fixtures import Tiny, chain
from page_fixtures import Open, StandIn, answer_to, finished, say

from babyllm.tokenizer import Tokenizer

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.slow

GO_ON = {"continue_final_message": True, "add_generation_prompt": False}


def go_on(page: Page) -> None:
    page.get_by_role("button", name="Continue").click()


@pytest.mark.parametrize("way", ["stopped", "length"])
def test_an_unfinished_answer_goes_on(visit: Open, server: StandIn, way: str) -> None:
    """What a stop or a limit ended is asked for with the answer so far, and the rest is added to it."""
    page = visit()
    text = " ".join(f"word{i}" for i in range(60))
    server.answers["hello"] = text
    if way == "length":
        server.answers["hello"], server.finish = text[:70], "length"
        server.usage = {"completion_tokens": 512, "total_tokens": 520}
        say(page, "hello")
        assert finished(page) == text[:70].strip()
    else:
        server.n_free = 10
        server.is_open.clear()
        say(page, "hello")
        page.locator(".writing .body", has_text="word3").wait_for()
        page.get_by_role("button", name="Stop").click()
        finished(page)
        server.is_open.set()
    so_far = page.evaluate("chat.messages[1].content")
    assert text.startswith(so_far) and len(so_far) < len(text)
    server.answers["hello"], server.finish = text, "stop"
    go_on(page)
    page.locator(".assistant .body", has_text="word59").wait_for()
    assert finished(page) == text
    assert GO_ON.items() <= server.asked[-1].items()
    assert server.asked[-1]["messages"] == [
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": so_far},
    ]
    assert page.get_by_role("button", name="Continue").count() == 0 and page.locator(".turns").count() == 0
    page.reload()
    assert finished(page) == text and page.locator(".assistant").count() == 1


def test_a_whole_answer_offers_nothing_to_continue(visit: Open) -> None:
    """An answer that ended by itself has no such button."""
    page = visit()
    say(page, "hello")
    finished(page)
    assert page.get_by_role("button", name="Continue").count() == 0


def test_a_full_context_leaves_the_oldest_exchange_out(visit: Open, server: StandIn) -> None:
    """An answer that filled the context goes on without the oldest exchange; where there is none it cannot."""
    page = visit()
    server.finish, server.usage = "length", {"completion_tokens": 40, "total_tokens": 60}
    for number, text in enumerate(["one", "two"]):
        say(page, text)
        finished(page, number + 1)
        assert page.get_by_role("button", name="Continue").count() == number
    go_on(page)
    page.get_by_text("no longer reads what stands above").wait_for()
    page.locator(".stats").nth(1).wait_for()
    assert [message["content"] for message in server.asked[-1]["messages"]] == ["two", answer_to("two", 3)]


def test_a_continuation_that_fails_takes_nothing_away(visit: Open, server: StandIn) -> None:
    """The answer so far stays after a refusal, and trying again goes on with it."""
    page = visit()
    say(page, "cut")
    so_far = finished(page)
    server.refusals["cut"] = 500, "broken", ""
    go_on(page)
    page.get_by_role("alert").wait_for()
    assert finished(page) == so_far and "stopped early" in page.locator(".assistant footer").inner_text()
    del server.refusals["cut"]
    server.answers["cut"] = answer_to("cut")
    page.get_by_role("button", name="Try again").click()
    page.get_by_role("alert").wait_for(state="detached")
    page.locator(".assistant .body", has_text="in message 1").wait_for()
    assert server.asked[-1]["messages"][-1] == {"role": "assistant", "content": so_far}


def test_reasoning_is_folded(visit: Open, server: StandIn) -> None:
    """What a model thinks before it answers can be opened, is never markup, stays open, and is not sent back."""
    page = visit()
    server.reasonings["hello"] = "First, **consider** <img src=x onerror='window.hacked=1'>\n\n```py\nx = 1\n```"
    server.n_free = 5
    server.is_open.clear()
    say(page, "hello")
    page.locator("details.reasoning summary", has_text="Thinking").wait_for()
    server.is_open.set()
    assert finished(page) == answer_to("hello")
    thought = page.locator(".thought")
    assert not thought.is_visible()
    page.locator("summary", has_text="Reasoning").press("Enter")
    thought.locator("strong").wait_for()
    assert "<img src=x" in thought.inner_text() and page.locator("#messages img").count() == 0
    say(page, "next")
    finished(page, 2)
    assert thought.is_visible() and page.evaluate("window.hacked") is None
    said = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": answer_to("hello")}]
    assert server.asked[-1]["messages"][:2] == said
    page.reload()
    finished(page, 2)
    assert page.locator("summary", has_text="Reasoning").count() == 1 and not thought.is_visible()


def test_reasoning_that_was_stopped_goes_on(visit: Open, server: StandIn) -> None:
    """An answer that was stopped while the model was thinking is continued with the reasoning so far."""
    page = visit()
    server.reasonings["hello"] = "a thought that takes long " * 20
    server.n_free = 10
    server.is_open.clear()
    say(page, "hello")
    page.locator("summary", has_text="Thinking").wait_for()
    page.get_by_role("button", name="Stop").click()
    go_on_button = page.get_by_role("button", name="Continue")
    go_on_button.wait_for()
    thought = page.evaluate("chat.messages[1].reasoning")
    server.reasonings["hello"] = ""
    server.is_open.set()
    go_on_button.click()
    page.locator(".assistant .body", has_text="You said").wait_for()
    assert server.asked[-1]["messages"][-1] == {"role": "assistant", "content": "", "reasoning_content": thought}


def test_tool_calls_are_text(visit: Open, server: StandIn) -> None:
    """The pieces of a call are put together and shown with its name; the call is part of what is sent next."""
    page = visit()
    server.answers["weather"] = "\n"
    head = {"index": 0, "id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"city": "<b>北京'}}
    server.calls["weather"] = [head, {"index": 0, "function": {"arguments": '</b>"}'}}]
    say(page, "weather")
    page.locator(".calls", has_text="Tool call: look").wait_for()
    finished(page)
    assert page.locator(".calls code").inner_text() == '{\n  "city": "<b>北京</b>"\n}'
    assert page.locator(".note", has_text="empty answer").count() == 0
    say(page, "and now?")
    finished(page, 2)
    (call,) = server.asked[-1]["messages"][1]["tool_calls"]
    assert call["id"] == "c1" and call["function"] == {"name": "look", "arguments": '{"city": "<b>北京</b>"}'}


def test_examples_are_those_of_the_model(visit: Open, server: StandIn) -> None:
    """The welcome offers what the server names, else general examples; a click asks one."""
    page = visit()
    assert page.locator("#welcome button").count() == 3
    server.examples = ["<b>好评</b>还是差评？", "写一条好评。"]
    page.reload()
    page.get_by_role("button", name="写一条好评。").wait_for()
    assert page.locator("#welcome button").all_inner_texts() == server.examples
    page.get_by_role("button", name="写一条好评。").click()
    assert finished(page) == answer_to("写一条好评。")


def test_one_of_several_models_is_chosen(visit: Open, server: StandIn) -> None:
    """With more than one model the settings offer them; the choice is kept, and dropped when that model is gone."""
    server.others = ["tiny-lora"]
    page = visit()
    page.get_by_role("button", name="Settings", exact=True).click()
    page.get_by_label("Model", exact=True).select_option("tiny-lora")
    page.locator("#close-settings").click()
    page.get_by_role("heading", name="tiny-lora").wait_for()
    page.reload()
    page.get_by_role("heading", name="tiny-lora").wait_for()
    say(page, "hello")
    finished(page)
    assert server.asked[-1]["model"] == "tiny-lora"
    server.others = []
    say(page, "again")
    finished(page, 2)
    assert server.asked[-1]["model"] == "tiny"


def test_the_real_server_continues_an_answer(visit: Open, tokenizer: Tokenizer, tiny: Tiny) -> None:
    """An answer of the server that ended at the longest answer goes on with what follows its text."""
    serve = pytest.importorskip("serve_fixtures")
    ids = list(dict.fromkeys(tokenizer.encode("the model reads one token after another 今天我们去公园看书小说生活")))[
        :24
    ]
    says = chain(tiny(tie_embeddings=False), [*ids, tokenizer.special["<|im_end|>"]])
    with serve.serving(serve.load_of(says, tokenizer, serve.chatml(tokenizer))) as server:
        page = visit(f"{server.url}/", name=serve.NAME)
        page.locator("#open-settings").click()
        page.locator("#temperature").fill("0")
        page.locator("#max_tokens").fill("16")
        page.locator("#close-settings").click()
        say(page, "hello")
        so_far = finished(page)
        page.get_by_role("button", name="Continue").click()
        page.wait_for_function("(n) => chat.messages[1].content.length > n && !running", arg=len(so_far))
        said = page.evaluate("chat.messages[1].content")
        assert said == tokenizer.decode(ids) and said.startswith(so_far)
        assert page.get_by_role("alert").count() == 0 and page.get_by_role("button", name="Continue").count() == 0
