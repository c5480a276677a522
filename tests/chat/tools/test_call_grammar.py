"""Grammars of answers that call functions, as llguidance reads them."""

import json
from itertools import product
from typing import Any

import pytest

from babyllm.chat.tools.call_grammar import Function, call_grammar
from babyllm.chat.tools.reasoning import Begin
from babyllm.chat.tools.tool_formats import HERMES, LINES, LLAMA3, ToolFormat

SCHEMA = {
    "type": "object",
    "properties": {"城市": {"type": "string", "maxLength": 5}, "list": {"$ref": "#/$defs/list"}},
    "required": ["城市"],
    "additionalProperties": False,
    "$defs": {"list": {"type": "array", "items": {"$ref": "#/$defs/list"}}},
}
FUNCTIONS = [Function('天气"/', SCHEMA), Function("now")]
NAMED = {"城市": "北京", "list": [[], [[]]]}


def accepts(grammar: str, text: str) -> bool:
    """Whether a grammar takes all of a text and may end after it."""
    guidance = pytest.importorskip("llguidance")
    tokenizer = guidance.LLTokenizer("byte")
    matcher = guidance.LLMatcher(tokenizer, guidance.grammar_from("lark", grammar))
    assert not matcher.is_error(), matcher.get_error()
    tokens = tokenizer.tokenize_str(text)
    return matcher.try_consume_tokens(tokens) == len(tokens) and bool(matcher.is_accepting())


def call(form: ToolFormat, name: str, arguments: dict[str, Any]) -> str:
    spelled = json.dumps({"name": name, form.key: arguments}, ensure_ascii=False)
    return f"{form.before}\n{spelled}\n{form.after}" if form.before else spelled


@pytest.mark.parametrize(("form", "begin"), [*product((HERMES, LLAMA3, LINES), ("content", "reasoning", "either"))])
def test_answers_are_calls(form: ToolFormat, begin: Begin) -> None:
    """An answer is a call of a function with arguments that its schema allows, or several where that is allowed."""
    thought = {"content": "", "reasoning": "hm <x>\n</think>\n\n", "either": "<think>hm</think>"}[begin]
    first, second = call(form, '天气"/', NAMED), call(form, "now", {})
    grammar = call_grammar(FUNCTIONS, form, begin=begin)
    single = call_grammar(FUNCTIONS, form, is_parallel=False, begin=begin)
    for text in (first, second):
        assert accepts(grammar, thought + text) and accepts(single, thought + text)
    assert accepts(grammar, thought + form.joint.join([first, second, first]))
    assert not accepts(single, thought + form.joint.join([first, second]))
    wrong = [call(form, "then", {}), call(form, "now", {"x": 1}), call(form, '天气"/', {"城市": "too long"})]
    for text in (*wrong, "", "hello", f"hello\n{first}", first[:-1], f"{first}\n"):
        assert not accepts(grammar, thought + text)


@pytest.mark.parametrize(("form", "begin"), [*product((HERMES, LLAMA3, LINES), ("content", "reasoning", "either"))])
def test_answers_may_be_calls(form: ToolFormat, begin: Begin) -> None:
    """Where no call is required, an answer is any text, but what begins as a call must be one."""
    thought = {"content": "", "reasoning": "hm\n</think>\n\n", "either": ""}[begin]
    grammar = call_grammar(FUNCTIONS, form, is_required=False, begin=begin)
    first = call(form, "now", {})
    for text in ("hello", "a\n\n  b < c {\n", first, form.joint.join([first, first])):
        assert accepts(grammar, thought + text)
    assert not accepts(grammar, thought + call(form, "then", {}))
    if form is HERMES:
        assert accepts(grammar, thought + f"wait\n{first}")
        assert not accepts(grammar, thought + f"wait\n{call(form, 'now', {'x': 1})}")
