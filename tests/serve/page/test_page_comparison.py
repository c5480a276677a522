"""Two answers to one question, of two models or two settings, side by side in a real browser."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from page_fixtures import Open, StandIn, answer_to, say

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.slow


def comparing(page: Page) -> Page:
    page.get_by_role("button", name="Compare two models or settings").click()
    return page


def settings_of(page: Page, side: str) -> None:
    page.locator("#sides button", has_text=side).click()
    assert page.get_by_role("radio", name=side).is_checked()


def both(page: Page, n_pairs: int = 1) -> list[str]:
    pair = page.locator(".pair").nth(n_pairs - 1)
    pair.locator(".stats").nth(1).wait_for()
    return pair.locator(".body").all_inner_texts()


def test_two_models_answer_at_once(visit: Open, server: StandIn) -> None:
    """Both models get the same messages with their own settings, and both answers grow at the same time."""
    server.others, server.n_free = ["other"], 3
    server.is_open.clear()
    server.by_model["other"] = {"hello": " ".join(["from the other"] * 20)}
    page = comparing(visit())
    settings_of(page, "Right")
    page.get_by_label("Model", exact=True).select_option("other")
    page.get_by_label("Temperature").fill("0.3")
    page.locator("#system").fill("Be odd.")
    page.locator("#close-settings").click()
    assert "other · Temperature 0.3 · another system prompt" in page.locator("#sides").inner_text()
    say(page, "hello")
    page.locator(".pair .writing .body").nth(1).get_by_text("from the other").wait_for()
    assert page.locator(".pair .writing").count() == 2
    assert page.locator(".pair .writing .body").first.inner_text().startswith("You")
    server.is_open.set()
    left, right = both(page)
    assert left == answer_to("hello") and right.startswith("from the other")
    asked = {one["model"]: one for one in server.asked}
    assert asked["tiny"]["messages"] == [{"role": "user", "content": "hello"}]
    assert asked["other"]["messages"] == [
        {"role": "system", "content": "Be odd."},
        {"role": "user", "content": "hello"},
    ]
    assert (asked["tiny"]["temperature"], asked["other"]["temperature"]) == (0.8, 0.3)
    heads = page.locator(".pair h3").all_inner_texts()
    assert heads == ["tiny · Temperature 0.8 · no system prompt", "other · Temperature 0.3 · another system prompt"]
    page.reload()
    assert both(page) == [left, right]


def test_the_chosen_answer_is_read_on_from(visit: Open, server: StandIn) -> None:
    """The conversation goes on from the left answer or from the one that is chosen, and both stay side by side."""
    server.others = ["other"]
    server.by_model["other"] = {"hello": "the other answer"}
    page = comparing(visit())
    settings_of(page, "Right")
    page.get_by_label("Model", exact=True).select_option("other")
    page.keyboard.press("Escape")
    say(page, "hello")
    both(page)
    chosen = page.get_by_role("button", name="Go on from this answer")
    assert [chosen.nth(i).get_attribute("aria-pressed") for i in (0, 1)] == ["true", "false"]
    chosen.nth(1).press("Enter")
    assert [chosen.nth(i).get_attribute("aria-pressed") for i in (0, 1)] == ["false", "true"]
    assert chosen.nth(1).evaluate("node => node === document.activeElement")
    comparing(page)
    say(page, "next")
    page.locator(".stats").nth(2).wait_for()
    said = [message["content"] for message in server.asked[-1]["messages"]]
    assert said == ["hello", "the other answer", "next"]
    assert page.locator(".pair .body").count() == 2 and page.locator(".user").count() == 2
    page.get_by_role("button", name="Another answer").click()
    page.get_by_text("2/2").wait_for()


def test_stop_ends_both_and_each_can_go_on(visit: Open, server: StandIn) -> None:
    """The button stops both answers, and each of them can be continued alone, by its own model."""
    server.others, server.delay = ["other"], 0.01
    page = comparing(visit())
    settings_of(page, "Right")
    page.get_by_label("Model", exact=True).select_option("other")
    page.keyboard.press("Escape")
    say(page, "long")
    for i in (0, 1):
        page.locator(".pair .body").nth(i).get_by_text("0 1 2 3").wait_for()
    page.get_by_role("button", name="Stop").click()
    both(page)
    assert page.get_by_role("button", name="Continue").count() == 2
    server.delay = 0
    page.get_by_role("button", name="Continue").nth(1).click()
    page.get_by_role("button", name="Stop").wait_for()
    assert page.locator(".writing").count() == 1
    page.get_by_role("button", name="Stop").click()
    page.get_by_role("button", name="Send", exact=True).wait_for()
    assert server.asked[-1]["model"] == "other" and server.asked[-1]["continue_final_message"] is True


def test_one_that_fails_can_be_tried_again_beside_the_other(visit: Open, server: StandIn) -> None:
    """If one side is refused the other's answer stays, and trying again asks that side alone."""
    page = comparing(visit())
    say(page, "busy")
    page.get_by_role("alert").get_by_text("queue is full").wait_for()
    assert page.locator(".assistant").count() == 1
    page.get_by_role("button", name="Try again").click()
    assert both(page) == [answer_to("busy")] * 2 and len(server.asked) == 3
    assert page.get_by_role("alert").count() == 0
    page.get_by_role("button", name="Another answer").click()
    page.get_by_text("2/2").wait_for()
    page.get_by_role("button", name="Previous version").click()
    assert page.locator(".turns").count() == 1 and len(both(page)) == 2


def test_a_phone_shows_both_one_below_the_other(visit: Open) -> None:
    """On a phone the two answers stand below each other, and nothing is wider than the screen."""
    page = comparing(visit(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True))
    say(page, "wide")
    both(page)
    boxes = [page.locator(".pair article").nth(i).bounding_box() for i in (0, 1)]
    assert boxes[1]["y"] >= boxes[0]["y"] + boxes[0]["height"] and boxes[0]["width"] > 300
    assert page.evaluate("document.documentElement.scrollWidth <= 360 && innerWidth <= 360")
