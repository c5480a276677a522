"""Reasoning that a template marks, apart from the content."""

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from serve_fixtures import CHAT, NAME, Server, asking, saved_events

from babyllm.chat.tools.reasoning import AnswerParts, Begin


def divided(text: str, cuts: list[int], begin: Begin) -> tuple[str, str]:
    """Reasoning and content of a text that comes in pieces."""
    parts, reasoning, content = AnswerParts(begin), "", ""
    places = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    pieces = [text[first:last] for first, last in pairwise(places)]
    for i, piece in enumerate([*pieces, ""]):
        new = parts.add(piece, is_end=i == len(pieces))
        reasoning, content = reasoning + new.reasoning, content + new.content
    return reasoning, content


@pytest.mark.parametrize(
    ("text", "begin", "expected"),
    [
        ("<think>\na b\n</think>\n\nyes\n", "either", ("a b", "yes\n")),
        ("\n <think>a</think>", "either", ("a", "")),
        ("<think></think>yes", "either", ("", "yes")),
        ("<think>a </thin", "either", ("a </thin", "")),
        ("a\n", "reasoning", ("a\n", "")),
        ("a</think>b</think>", "reasoning", ("a", "b</think>")),
        ("yes <think>a</think>", "either", ("", "yes <think>a</think>")),
        ("<thin", "either", ("", "<thin")),
        (" yes", "either", ("", " yes")),
        ("<think>a</think>b", "content", ("", "<think>a</think>b")),
        ("", "either", ("", "")),
    ],
)
@given(cuts=st.lists(st.integers(0, 40), max_size=12))
def test_reasoning_is_divided_wherever_the_pieces_end(
    text: str, begin: Begin, expected: tuple[str, str], cuts: list[int]
) -> None:
    """Marks and the blanks around them belong to neither part, however the text is cut."""
    assert divided(text, cuts, begin) == expected


def test_reasoning_comes_in_a_field_of_its_own(thinker: Server) -> None:
    """Whole and streamed, in the official client too; it can be left in the content or left out."""
    message = thinker.post(CHAT, asking("x")).json()["choices"][0]["message"]
    assert (message["reasoning_content"], message["content"]) == ("今天", "很好")
    events = [json.loads(event) for event in saved_events(thinker.post(CHAT, asking("x", stream=True)))[:-1]]
    deltas = [event["choices"][0]["delta"] for event in events]
    assert "".join(delta.get("reasoning_content", "") for delta in deltas) == "今天"
    assert "".join(delta.get("content", "") for delta in deltas) == "很好"
    for whole in ({"separate_reasoning": False}, {"reasoning_format": "none"}):
        message = thinker.post(CHAT, asking("x") | whole).json()["choices"][0]["message"]
        assert message["content"] == "<think>今天</think>很好" and "reasoning_content" not in message
    without = thinker.post(CHAT, asking("x", include_reasoning=False)).json()["choices"][0]["message"]
    assert without["content"] == "很好" and "reasoning_content" not in without
    with thinker.openai() as client:
        answer = client.chat.completions.create(model=NAME, messages=[{"role": "user", "content": "x"}], temperature=0)
    assert answer.choices[0].message.model_extra["reasoning_content"] == "今天"


def test_reasoning_that_is_sent_back_reaches_the_template(thinker: Server) -> None:
    """Under both names it takes its place in the prompt; an answer that breaks off in it is continued there."""
    said = {"role": "assistant", "content": "很"}
    counts = []
    for more in ({}, {"reasoning_content": "今天"}, {"reasoning": "今天"}):
        messages = [{"role": "user", "content": "x"}, said | more, {"role": "user", "content": "y"}]
        counts.append(thinker.post(CHAT, asking("x", messages=messages)).json()["usage"]["prompt_tokens"])
    assert counts[1] == counts[2] > counts[0]
    broken = {"role": "assistant", "content": "", "reasoning_content": "今", "prefix": True}
    message = thinker.post(CHAT, asking("x", messages=[{"role": "user", "content": "x"}, broken])).json()["choices"][0]
    assert message["message"] == {"role": "assistant", "reasoning_content": "天", "content": "很好", "refusal": None}


def test_reasoning_is_switched_off_where_the_template_can(thinker: Server) -> None:
    """Effort none and enable_thinking false write the prompt of an answer without reasoning; others change nothing."""
    switched = {"chat_template_kwargs": {"enable_thinking": False}, "return_token_strs": True}
    told = thinker.post("/tokenize", {"messages": asking("x")["messages"]} | switched).json()
    n_told, n_plain = told["count"], thinker.post(CHAT, asking("x")).json()["usage"]["prompt_tokens"]
    assert n_told > n_plain and "".join(told["token_strs"]).endswith("</think>\n\n")
    efforts = {"none": n_told, "minimal": n_plain, "high": n_plain}
    for effort, n in efforts.items():
        assert thinker.post(CHAT, asking("x", reasoning_effort=effort)).json()["usage"]["prompt_tokens"] == n
        body = {"input": "x", "max_output_tokens": 2, "reasoning": {"effort": effort}}
        assert thinker.post("/v1/responses", body).json()["usage"]["input_tokens"] == n
    on = asking("x", chat_template_kwargs={"enable_thinking": True})
    assert thinker.post(CHAT, on).json()["usage"]["prompt_tokens"] == n_plain
    for wrong in ({"reasoning_effort": "much"}, {"chat_template_kwargs": {"enable_thinking": "no"}}):
        assert thinker.post(CHAT, asking("x") | wrong).status_code == 400
