"""Reasoning, content and calls in an answer's text."""

import json
from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from babyllm.chat.tools.answer_parser import AnswerParser
from babyllm.chat.tools.reasoning import Begin
from babyllm.chat.tools.tool_formats import HERMES, LINES, LLAMA3, ToolFormat

CALL = '<tool_call>\n{"name": "f", "arguments": {"x": "é}\\"<"}}\n</tool_call>'
SAID = ("f", '{"x": "é}\\"<"}')


def parsed(
    pieces: Iterable[str], form: ToolFormat | None = HERMES, begin: Begin = "content"
) -> tuple[str, str, list[tuple[str, str]]]:
    """The reasoning, the content and the calls of an answer that arrives in pieces."""
    parser = AnswerParser(begin, form)
    reasoning = content = ""
    calls: list[tuple[str, str]] = []
    *most, last = [*pieces, ""]
    for delta in [*(parser.add(piece) for piece in most), parser.add(last, is_end=True)]:
        reasoning, content = reasoning + delta.reasoning, content + delta.content
        for call in delta.calls:
            if call.name:
                assert call.number == len(calls)
                calls.append((call.name, call.arguments))
            else:
                calls[call.number] = calls[call.number][0], calls[call.number][1] + call.arguments
    return reasoning, content, calls


@pytest.mark.parametrize(
    ("text", "content", "calls"),
    [
        ("hello", "hello", []),
        (CALL, "", [SAID]),
        (f"wait\n{CALL}", "wait", [SAID]),
        (f"wait\n{CALL}\n{CALL}\n", "wait", [SAID, SAID]),
        (f"{CALL}\nthat is it", "\nthat is it", [SAID]),
        ('<tool_call>{"arguments": {"x": 1}, "name": "g"}</tool_call>', "", [("g", '{"x": 1}')]),
        ('<tool_call>{"name": "g", "arguments": "{\\"x\\": 1}"}</tool_call>', "", [("g", '{"x": 1}')]),
        ('<tool_call>{"name": "g"}</tool_call>', "", [("g", "{}")]),
        ('<tool_call>{"name": "g", "parameters": {}}</tool_call>', "", [("g", "{}")]),
        ('<tool_call>{"name": "g", "arguments": {}\n</tool_call>', "", [("g", "{}")]),
        ('<tool_call>{"name": "g", "arguments": {}}', "", [("g", "{}")]),
        ('<tool_call>{"name": "g", "arguments": {"x": "a', "", [("g", '{"x": "a')]),
        ('<tool_call>{"name": "g", "arguments": {"x": }}</tool_call>', "", [("g", '{"x": }')]),
        ('<tool_call>{"name": "g", "arguments": {"x": [</tool_call>b', "b", [("g", '{"x": [')]),
        ('<tool_call>{"name": "\\u6c14", "arguments": {}}</tool_call>', "", [("气", "{}")]),
        *[
            (text, text, [])
            for text in (
                "<tool_call>",
                "a <tool_call> b </tool_call>",
                "<tool_call>\n{}\n</tool_call>",
                '<tool_call>{"name": "", "arguments": {}}</tool_call>',
                '<tool_call>{"name": "g", "arguments": 3}</tool_call>',
                '<tool_call>{"name": "g", "argu',
                '<tool_call>{"name": 3, "arguments": {}}</tool_call>',
                '\n<tool_call>{"name" "g"}</tool_call>\n',
                "a\n<tool_cal>\n<",
                '{"name": "g", "arguments": {}}',
            )
        ],
    ],
)
def test_calls_in_tags(text: str, content: str, calls: list[tuple[str, str]]) -> None:
    """Calls are taken out of the content with the line breaks around them; what is not a call stays as it is."""
    assert parsed([text]) == ("", content, calls)
    assert parsed(text) == ("", content, calls)


@pytest.mark.parametrize(
    ("text", "content", "calls"),
    [
        ('{"name": "f", "parameters": {"x": [1, {}]}}', "", [("f", '{"x": [1, {}]}')]),
        ('<|python_tag|>{"name": "f", "parameters": {}}', "", [("f", "{}")]),
        (
            '{"name": "f", "parameters": {}}; {"name": "g", "parameters": {"y": 2}}',
            "",
            [("f", "{}"), ("g", '{"y": 2}')],
        ),
        ('{"type": "function", "function": "f", "parameters": {}}', "", [("f", "{}")]),
        ('{"name": "f", "parameters": {}} and', " and", [("f", "{}")]),
        ('a\n{"name": "f", "parameters": {}}', 'a\n{"name": "f", "parameters": {}}', []),
        ('{"x": {"name": "f", "parameters": {}}}', '{"x": {"name": "f", "parameters": {}}}', []),
        ("<|python_tag|>print(1)", "<|python_tag|>print(1)", []),
        ("<|py", "<|py", []),
        (" \n", " \n", []),
    ],
)
def test_calls_of_llama3(text: str, content: str, calls: list[tuple[str, str]]) -> None:
    """A call is the whole answer, as an object with name and parameters."""
    assert parsed([text], LLAMA3) == ("", content, calls)
    assert parsed(text, LLAMA3) == ("", content, calls)


@pytest.mark.parametrize(
    ("text", "content", "calls"),
    [
        ('看\n{"name": "f", "arguments": {"x": 1}}', "看", [("f", '{"x": 1}')]),
        ('{"name": "f", "arguments": {}}\n{"name": "g", "arguments": {}}', "", [("f", "{}"), ("g", "{}")]),
        ('a {"name": "f", "arguments": {}}', 'a {"name": "f", "arguments": {}}', []),
        ("{\n{ }\n", "{\n{ }\n", []),
        ("a\n  ", "a\n  ", []),
    ],
)
def test_calls_on_lines(text: str, content: str, calls: list[tuple[str, str]]) -> None:
    """Where a template spells calls out, they are lines of their own."""
    assert parsed([text], LINES) == ("", content, calls)
    assert parsed(text, LINES) == ("", content, calls)


def test_reasoning_before_calls() -> None:
    """Reasoning is split off first, whether the prompt or the answer opens it, and calls in it are reasoning."""
    text = f"I call {CALL}\n</think>\n\nwait\n{CALL}"
    expected = (f"I call {CALL}", "wait", [SAID])
    assert parsed(text, begin="reasoning") == parsed([text], begin="reasoning") == expected
    assert parsed(f"<think>\n{text}", begin="either") == expected
    assert parsed(CALL, begin="either") == ("", "", [SAID])
    assert parsed([CALL], None) == ("", CALL, [])


def test_arguments_are_streamed() -> None:
    """The name is sent as soon as the arguments begin, with the first of them, and then each piece of them."""
    parser = AnswerParser("content", HERMES)
    deltas = [parser.add(piece) for piece in ('<tool_call>{"name": "f", "arguments": {', '"x": ', "1", "}", "}</tool")]
    assert [[(c.number, c.name, c.arguments) for c in delta.calls] for delta in deltas] == [
        [(0, "f", "{")],
        [(0, "", '"x": ')],
        [(0, "", "1")],
        [(0, "", "}")],
        [],
    ]


PARTS = st.sampled_from(
    [
        *("<tool_call>", "</tool_call>", "\n", " ", '{"name": "f", "arguments": {', '"x": ', "1", "}", "}}", '"', "\\"),
        *("<think>", "</think>", '{"name"', '"parameters": {}', ": ", ", ", "[", "]", "<", "a", "é", ";", CALL),
        *('{"name": "f", "parameters": {}}', '{"name": "f", "arguments": {"y": "{"}}', "<|python_tag|>", "true"),
        *('{"arguments": {}, "name": "f"}', '"function": ', "{", "\t"),
    ]
)
MARKS = ("<tool_call>", "</tool_call>", "<think>", "</think>", "<|python_tag|>")


@given(
    st.lists(PARTS, max_size=12),
    st.lists(st.integers(0, 200), max_size=8),
    st.sampled_from([HERMES, LLAMA3, LINES]),
    st.sampled_from(["content", "reasoning", "either"]),
)
def test_any_division_of_the_text_has_the_same_parts(
    parts: list[str], cuts: list[int], form: ToolFormat, begin: Begin
) -> None:
    """However a text is divided, the parts are the same, and together they hold all of it but marks and heads."""
    text = "".join(parts)
    borders = [0, *sorted(cut for cut in cuts if cut < len(text)), len(text)]
    pieces = [text[first:last] for first, last in pairwise(borders)]
    whole = parsed([text], form, begin)
    assert parsed(text, form, begin) == whole
    assert parsed(pieces, form, begin) == whole
    reasoning, content, calls = whole
    if not calls and begin == "content":
        assert content == text
    kept = reasoning + content + "".join(name + arguments for name, arguments in calls)
    assert kept.count("é") == text.count("é")


@given(st.text(), st.dictionaries(st.text(), st.text() | st.lists(st.integers())), st.text())
def test_calls_are_read_as_they_were_rendered(said: str, arguments: dict[str, object], name: str) -> None:
    """A call that the template renders is read back with its name and arguments, whatever they hold."""
    if not name.strip() or "<tool_call>" in said:
        return
    spelled = json.dumps(arguments, ensure_ascii=False)
    text = f'{said}\n<tool_call>\n{{"name": {json.dumps(name)}, "arguments": {spelled}}}\n</tool_call>'
    assert parsed(text) == parsed([text]) == ("", said, [(name, spelled)])
