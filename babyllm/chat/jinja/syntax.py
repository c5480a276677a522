"""Chat templates as Jinja: the language of transformers' templates, and marks in the rendered text.

`{% generation %} ... {% endgeneration %}` leaves a private-use character at either end of the assistant's text. A
message's content can be rendered as one such character too, its placeholder. So the template's own text can be told
apart from the messages'.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any, NamedTuple, NoReturn

import jinja2
from jinja2 import meta, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Macro

from babyllm.chat.jinja.sandbox import Sandbox
from babyllm.errors import UserError

FIRST_PLACE, OPEN, CLOSE = "\U00100000", "\U0010fffc", "\U0010fffd"
MARKS = re.compile(f"[{FIRST_PLACE}-{CLOSE}]")
MAX_PLACES = ord(OPEN) - ord(FIRST_PLACE)


def place(number: int) -> str:
    """The placeholder character of a number from 0, such as that of a message's content."""
    return chr(ord(FIRST_PLACE) + number)


def place_number(mark: str) -> int:
    """The number of a placeholder character."""
    return ord(mark) - ord(FIRST_PLACE)


class Generation(Extension):
    """The tag around the assistant's text."""

    tags = {"generation"}  # noqa: RUF012  # a set by jinja2's own declaration

    def parse(self, parser: Parser) -> nodes.Node:
        """The tag's body, called as a block."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_marked"), [], [], body).set_lineno(line)

    def _marked(self, caller: Macro) -> str:
        return f"{OPEN}{caller()}{CLOSE}"


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON without the HTML escapes of Jinja's own filter."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _strftime_now(pattern: str) -> str:
    return datetime.now().strftime(pattern)


ENVIRONMENT = Sandbox({"tojson": _tojson}, trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
ENVIRONMENT.globals |= {"raise_exception": _raise_exception, "strftime_now": _strftime_now}


def compiled(source: str, where: str) -> jinja2.Template:
    """A template, ready to render.

    Args:
        source: the Jinja text.
        where: the name of the template in messages.

    Raises:
        UserError: `source` is not valid Jinja, or is too long or nested too deeply.
    """
    with _named(where):
        return ENVIRONMENT.from_string(source)


@contextmanager
def _named(where: str) -> Iterator[None]:
    """Turn any error of the compiler into one line that names the template."""
    try:
        yield
    except jinja2.TemplateSyntaxError as error:
        raise UserError(f"{where}, line {error.lineno}: {error.message}") from None
    except Exception as error:  # constants are computed and Python is compiled, which can raise anything
        raise UserError(f"{where}: cannot be compiled: {type(error).__name__}: {error}") from None


def literals(source: str, where: str) -> list[str]:
    """The literal texts of a template, in and between its tags.

    Raises:
        UserError: `source` is not valid Jinja.
    """
    with _named(where):
        found = list(ENVIRONMENT.parse(source).find_all((nodes.TemplateData, nodes.Const)))
    values = (node.data if isinstance(node, nodes.TemplateData) else node.value for node in found)  # type: ignore[attr-defined]
    return [value for value in values if isinstance(value, str)]


class Taken(NamedTuple):
    """Whether a template has fields for reasoning, for tools, for inputs of instructions and for calls of tools."""

    reasoning: bool
    tools: bool
    inputs: bool
    calls: bool


def fields_taken(source: str, where: str) -> Taken:
    """The fields that a template has in addition to roles and contents.

    Raises:
        UserError: `source` is not valid Jinja.
    """
    with _named(where):
        tree = ENVIRONMENT.parse(source)
        has_tools = "tools" in meta.find_undeclared_variables(tree)
    named = [node.attr for node in tree.find_all(nodes.Getattr)]
    named += [node.arg.value for node in tree.find_all(nodes.Getitem) if isinstance(node.arg, nodes.Const)]
    return Taken("reasoning_content" in source, has_tools, "input" in named, "tool_calls" in source)


def is_marked(source: str, where: str) -> bool:
    """Whether a template has `{% generation %}` anywhere.

    Raises:
        UserError: `source` is not valid Jinja.
    """
    with _named(where):
        calls = [block.call.node for block in ENVIRONMENT.parse(source).find_all(nodes.CallBlock)]
    return any(isinstance(call, nodes.ExtensionAttribute) for call in calls)


def any_of(patterns: Sequence[str], names: Iterable[str]) -> re.Pattern[str]:
    """A pattern with one group that matches any of these; a longer name is preferred to its beginning.

    Args:
        patterns: regular expressions.
        names: texts that are matched as they are.
    """
    longest_first = sorted(names, key=lambda name: -len(name))
    return re.compile(f"({'|'.join([*patterns, *map(re.escape, longest_first)])})")
