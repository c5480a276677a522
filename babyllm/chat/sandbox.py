"""A Jinja sandbox in which a template can take only so many steps and make only so much text.

template -> parse: loops and `~` go through counting functions -> render under a budget -> text, or TooMuch

Jinja's own sandbox keeps a template from the machine; this keeps it from running for ever or filling the memory.
"""

from __future__ import annotations

import functools
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

STEPS, STEPS_PER_MESSAGE = 1_000_000, 1_000
"""Rounds of loops, calls and filters of a rendering, and how many more for each message."""
CHARACTERS, CHARACTERS_PER_CHARACTER = 1 << 22, 64
"""Characters that a rendering makes in all its steps, and how many more for each of the messages'."""
MOST_SOURCE = 1 << 20
"""Characters of a template."""

_WIDEST = 10_000  # characters a number may ask for: a field's width, an indent
_DIGITS = re.compile(r"\d{5,}|\*")
_BITS = 4096  # of a whole number
# Filters and methods that make much of little and that no chat template uses.
_NO_FILTERS = ("batch", "center", "pprint", "slice", "sum", "urlize", "wordwrap", "xmlattr")
_NO_METHODS = ("center", "encode", "expandtabs", "format_map", "ljust", "rjust", "translate", "zfill")
_PRINTING_FILTERS = ("format", "indent", "join", "replace", "string", "tojson")


class TooMuch(jinja2.TemplateError):
    """A template takes more steps or makes more text than a conversation can need."""


class _Budget(threading.local):
    """What is left to the rendering of this thread; compiling has the least there is."""

    def __init__(self) -> None:
        self.steps, self.characters = STEPS, CHARACTERS

    def take(self, steps: int, characters: int) -> None:
        self.steps -= steps
        self.characters -= characters
        if self.steps < 0:
            raise TooMuch("it takes more steps than a conversation needs")
        if self.characters < 0:
            raise TooMuch("it makes more text than a conversation needs")


_left = _Budget()


@contextmanager
def budget(n_messages: int = 0, n_characters: int = 0) -> Iterator[None]:
    """A context in which templates may take the steps and make the text that so much of a conversation can need."""
    before = _left.steps, _left.characters
    _left.steps = STEPS + STEPS_PER_MESSAGE * n_messages
    _left.characters = CHARACTERS + CHARACTERS_PER_CHARACTER * n_characters
    try:
        yield
    finally:
        _left.steps, _left.characters = before


def _take_printed(value: Any) -> None:
    """Pay for the text of a value, however deeply it is nested and however often it holds the same."""
    if isinstance(value, str):
        _left.take(0, len(value))
        return
    rest = [value]
    while rest:
        value = rest.pop()
        _left.take(0, len(value) if isinstance(value, str) else 4)
        if isinstance(value, dict):
            rest += [*value.keys(), *value.values()]
        elif isinstance(value, (list, tuple)):
            _left.take(0, len(value))
            rest += value


def _take_result(value: Any) -> Any:
    _left.take(1, len(value) if isinstance(value, (str, list, tuple)) else 0)
    return value


def _require_narrow(text: str, values: Iterable[Any] = ()) -> None:
    """Refuse a format that asks for fields of a great width."""
    if _DIGITS.search(text) or any(isinstance(value, int) and abs(value) > 1 << 62 for value in values):
        raise TooMuch("it formats a field of a great width")


def _take_filter(name: str, arguments: tuple[Any, ...]) -> None:
    for argument in arguments:
        _take_printed(argument)
    numbers = [abs(argument) for argument in arguments if isinstance(argument, int)]
    if name in ("indent", "tojson") and max(numbers, default=0) > _WIDEST:
        raise TooMuch("it asks for a great indent")
    first = str(arguments[0]) if arguments else ""
    if name == "indent":
        _left.take(0, max(numbers, default=4) * (first.count("\n") + 1))
    elif name == "format":
        _require_narrow(first, arguments[1:])
    elif name == "join" and len(arguments) > 1 and isinstance(arguments[0], Sized):
        _left.take(0, len(str(arguments[1])) * len(arguments[0]))
    elif name == "replace" and len(arguments) > 2:
        _take_replaced(first, str(arguments[1]), str(arguments[2]))


def _take_replaced(text: str, old: str, new: str) -> None:
    _left.take(0, (text.count(old) if old else len(text) + 1) * len(new))


def _counted_filter(name: str, plain: Callable[..., Any]) -> Callable[..., Any]:
    is_passed = hasattr(plain, "jinja_pass_arg")  # the context or the environment comes first

    @functools.wraps(plain)
    def counted(*arguments: Any, **named: Any) -> Any:
        given = arguments[1:] if is_passed else arguments
        if name in _PRINTING_FILTERS:
            # A generator is read here to be paid for.
            if given and isinstance(given[0], Iterator):
                given = (list(_rounds(given[0])), *given[1:])
            _take_filter(name, (*given, *named.values()))
        elif given and isinstance(given[0], Sized):
            _left.take(len(given[0]) if not isinstance(given[0], str) else 0, 0)
        return _take_result(plain(*arguments[: len(arguments) - len(given)], *given, **named))

    return counted


def _rounds(values: Iterable[Any]) -> Iterator[Any]:
    for value in values:
        _left.take(1, 0)
        yield value


class Sandbox(ImmutableSandboxedEnvironment):
    """The environment that templates are compiled and rendered in, under the `budget` of their thread."""

    intercepted_binops = frozenset(("+", "*", "**", "%"))

    def __init__(self, **options: Any) -> None:
        super().__init__(finalize=self._printed, **options)
        for name in _NO_FILTERS:
            del self.filters[name]
        del self.globals["lipsum"]
        self.count_filters()

    def count_filters(self) -> None:
        """Make all filters pay for what they do; call it again after others were added."""
        for name, plain in self.filters.items():
            if not hasattr(plain, "__wrapped__") or plain.__name__ != "counted":
                self.filters[name] = _counted_filter(name, plain)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        if len(source) > MOST_SOURCE:
            raise jinja2.TemplateSyntaxError(f"it has more than {MOST_SOURCE} characters", 1)
        tree = super()._parse(source, name, filename)
        for loop in list(tree.find_all(nodes.For)):
            text = sum(len(data.data) for data in loop.find_all(nodes.TemplateData))
            loop.iter = _called("looped", loop.iter, nodes.Const(text))
        for joined in list(tree.find_all(nodes.Concat)):
            joined.nodes = [_called("printed", part) for part in joined.nodes]
        return tree

    def looped(self, values: Iterable[Any], text: int) -> Iterable[Any]:
        """What a loop goes through, paid for; `text` characters stand in its body."""
        if isinstance(values, Sized):
            _left.take(len(values), len(values) * text)
            return values
        return self._paid_rounds(values, text)

    def _paid_rounds(self, values: Iterable[Any], text: int) -> Iterator[Any]:
        for value in values:
            _left.take(1, text)
            yield value

    def printed(self, value: Any) -> Any:
        """A value that becomes text, paid for."""
        _take_printed(value)
        return value

    def _printed(self, value: Any) -> Any:
        _take_printed(value)
        return value

    def call(self, context: Any, called: Any, *arguments: Any, **named: Any) -> Any:  # noqa: D102  # jinja2's own
        owner, name = getattr(called, "__self__", None), getattr(called, "__name__", "")
        if isinstance(owner, str):
            if name == "join" and arguments:
                _take_filter("join", (arguments[0], owner))
            elif name == "replace" and len(arguments) > 1:
                _take_replaced(owner, str(arguments[0]), str(arguments[1]))
        return _take_result(super().call(context, called, *arguments, **named))

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:  # noqa: D102  # jinja2's own
        plain = super().wrap_str_format(value)
        if plain is None:
            return None

        def narrow(*arguments: Any, **named: Any) -> str:
            _require_narrow(value.__self__)
            if "{}" in value.__self__.replace("{}", "", 1) and ":{" in value.__self__:
                raise TooMuch("it formats a field of a width that is computed")
            for argument in (*arguments, *named.values()):
                _take_printed(argument)
            return plain(*arguments, **named)

        return narrow

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:  # noqa: D102  # jinja2's own
        if isinstance(obj, str) and attr in _NO_METHODS:
            return False
        return super().is_safe_attribute(obj, attr, value)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:  # noqa: D102  # jinja2's own
        if operator == "+":
            if isinstance(left, Sized) and isinstance(right, Sized):
                _left.take(0, len(left) + len(right))
        elif operator == "%":
            if isinstance(left, str):
                _require_narrow(left)
                _take_printed(right)
        else:
            _take_product(operator, left, right)
        return super().call_binop(context, operator, left, right)


def _called(name: str, *arguments: nodes.Expr) -> nodes.Call:
    return nodes.Call(nodes.EnvironmentAttribute(name), list(arguments), [], None, None)


def _take_product(operator: str, left: Any, right: Any) -> None:
    for many, times in ((left, right), (right, left)):
        if isinstance(many, Sized) and isinstance(times, int):
            _left.take(0, len(many) * max(times, 0))
    if isinstance(left, int) and isinstance(right, int):
        bits = left.bit_length() * right if operator == "**" else left.bit_length() + right.bit_length()
        if bits > _BITS:
            raise TooMuch("it computes with a number of a great size")
