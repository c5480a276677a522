"""Grammars that make a model call functions, in the Lark dialect of llguidance.

tools, choice, ToolFormat -> call_grammar -> text with a rule for each function and its schema as %json
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from babyllm.chat.tools.json_rule import json_rule
from babyllm.chat.tools.reasoning import CLOSE, OPEN, Begin
from babyllm.chat.tools.tool_formats import ToolFormat

_NO_PARAMETERS: dict[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}


class Function(NamedTuple):
    """A function that can be called.

    Attributes:
        name: name of the function.
        parameters: JSON schema of its arguments; None for a function without any.
    """

    name: str
    parameters: Mapping[str, Any] | None = None


def call_grammar(
    functions: Sequence[Function],
    form: ToolFormat,
    *,
    is_required: bool = True,
    is_parallel: bool = True,
    begin: Begin = "content",
    content: Mapping[str, Any] | None = None,
) -> str:
    """The grammar of answers that call functions, for `Constraint(kind="grammar")`.

    Args:
        functions: functions that may be called, at least one.
        form: how the model writes calls.
        is_required: whether the answer is nothing but calls; else it may begin with any text, or be no call.
        is_parallel: whether there may be several calls.
        begin: what the answer begins with; reasoning is free text.
        content: JSON schema of an answer without calls, which is then not any text; only where no call is required.
    """
    more = f" ({_quoted(form.joint)} call)*" if is_parallel else ""
    thought = {"content": "", "reasoning": "thought ", "either": f"({_quoted(OPEN)} thought)? "}[begin]
    if is_required:
        answer = f"call{more}"
    elif content is None:
        answer = f"(SAID? | {_lead(form)}{more})"
    else:
        answer = f"(said | call{more})"
    rules = [f"start: {thought}{answer}"]
    if thought:
        rules += [r"thought: inner /\n*/", f"inner[lazy]: /(?s:.*){_escaped(CLOSE)}/"]
    if content is not None:
        rules.append(f"said: {json_rule(content)}")
    elif not is_required:
        rules += _free(form)
    before = f"{_mark(form, form.before)} {_quoted(chr(10))}" if form.before else ""
    after = f"{_quoted(chr(10))} {_mark(form, form.after)}" if form.after else ""
    rules += [f"call: {before} body", f"body: ({' | '.join(f'call_{i}' for i in range(len(functions)))}) {after}"]
    for i, (name, parameters) in enumerate(functions):
        head = f'{{"name": {json.dumps(name, ensure_ascii=False)}, "{form.key}": '
        rules.append(f"call_{i}: {_quoted(head)} {_arguments(parameters)} {_quoted('}')}")
    return "\n".join(rules)


def _lead(form: ToolFormat) -> str:
    """The first call of an answer that need not call anything; at a mark, with the text before it."""
    if form.are_special:
        return "SAID? call"
    return "lead body" if form.place == "mark" else "call"


def _mark(form: ToolFormat, mark: str) -> str:
    """A mark in a rule."""
    return mark if form.are_special else _quoted(mark)


def _free(form: ToolFormat) -> list[str]:
    """Rules for text that begins no call, and for text up to the first mark."""
    if form.are_special:
        return ["SAID: /(?s:.+)/"]
    if form.place == "mark":
        mark = _escaped(form.before)
        said = f"SAID: /(?s:.*)/ & ~/(?s:.*){mark}(?s:.*)/"
        return [said, rf"lead[lazy]: /(?s:.*){mark}\n/ & ~/(?s:.*){mark}[^\n](?s:.*)/"]
    first = r"[^{ \t\r\n]"
    if form.place == "line":
        return [rf"SAID: /{first}[^\n]*(\n[ \t]*({first}[^\n]*)?)*/"]
    return [f"SAID: /{first}(?s:.)*/"]


def _escaped(mark: str) -> str:
    """A mark in a regular expression of Lark."""
    return mark.replace("/", r"\/")


def _arguments(parameters: Mapping[str, Any] | None) -> str:
    has_none = not parameters or parameters == {"type": "object"}
    return json_rule(_NO_PARAMETERS if has_none or not parameters else parameters)


def _quoted(text: str) -> str:
    """A text as a string of Lark."""
    return json.dumps(text, ensure_ascii=False)
