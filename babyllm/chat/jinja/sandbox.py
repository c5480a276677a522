"""A Jinja sandbox that limits the steps a template takes and the text it makes.

template -> parse: loops and `~` pass through counting filters -> render under a budget -> text, or TooMuch

Jinja's own sandbox keeps a template from reaching the machine. This one also keeps it from running without end and
from filling the memory. Every conversation passes through this code, so common cases come first in each function.
"""

from __future__ import annotations

import functools
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

STEPS, STEPS_PER_MESSAGE = 500_000, 1_000
"""Rounds of loops that a rendering may take, and more for each message; a call or a filter counts as `CALL` rounds."""
CALL = 20
CHARACTERS, CHARACTERS_PER_CHARACTER = 1 << 22, 64
"""Characters that a rendering may make in all its steps, and more for each character of the messages."""
MOST_SOURCE = 1 << 20
"""Largest number of characters of a template."""

_WIDEST = 10_000  # columns of an indent
_WIDE_FIELD = re.compile(r"\d{5,}|\*|:[^}]*\{")
_NUMBER = 16  # characters that a value other than a text counts as
_BITS = 4096  # of a whole number
# Filters and methods that make long texts from short ones. No chat template uses them.
_NO_FILTERS = ("batch", "center", "pprint", "slice", "sum", "urlize", "wordwrap", "xmlattr")
_NO_METHODS = ("center", "encode", "expandtabs", "format_map", "ljust", "rjust", "translate", "zfill")
_PRINTING_FILTERS = ("format", "indent", "join", "replace", "string", "tojson")


class TooMuch(jinja2.TemplateError):
    """A template takes more steps or makes more text than a conversation can need."""


class _Budget:
    """The steps and characters left to the current rendering; compiling uses what the last rendering left."""

    def __init__(self) -> None:
        self.steps, self.characters, self.parts = STEPS, CHARACTERS, CHARACTERS // _NUMBER
        self.sizes: dict[int, tuple[Any, int]] = {}  # by id; holding the value keeps its id from being reused
        self.lock = threading.RLock()  # renderings never run in parallel anyway

    def take(self, steps: int, characters: int) -> None:
        self.steps -= steps
        self.characters -= characters
        if self.steps < 0:
            raise TooMuch("it takes more steps than a conversation needs")
        if self.characters < 0:
            raise TooMuch("it makes more text than a conversation needs")


_left = _Budget()


def within_budget(work: Callable[[], str], n_messages: int, n_characters: int) -> str:
    """Run `work` within the budget of a conversation, and return its result.

    Args:
        work: a function that renders a template.
        n_messages: the number of messages.
        n_characters: the number of characters in all messages.

    Raises:
        TooMuch: `work` exceeds the budget.
    """
    with _left.lock:
        _left.steps = STEPS + STEPS_PER_MESSAGE * n_messages
        _left.characters = CHARACTERS + CHARACTERS_PER_CHARACTER * n_characters
        _left.parts = _left.characters // _NUMBER
        try:
            return work()
        finally:
            _left.sizes.clear()


def printed(value: Any) -> Any:
    """Charge the size of a value that becomes text to the budget, repetitions included, and return the value."""
    if type(value) is str:
        _left.take(0, len(value))
        return value
    rest = [value]
    while rest:
        part = rest.pop()
        _left.take(0, len(part) if isinstance(part, str) else _NUMBER)
        if isinstance(part, dict):
            rest += [*part.keys(), *part.values()]
        elif isinstance(part, (list, tuple)):
            _left.take(0, len(part))
            rest += part
    return value


def _size(value: Any) -> int:
    """The number of values nested in a value, repetitions included; it is cached, since templates cannot mutate."""
    if not isinstance(value, (list, tuple, dict)):
        return 1
    if known := _left.sizes.get(id(value)):
        return known[1]
    size = 1 + sum(map(_size, (*value.keys(), *value.values()) if isinstance(value, dict) else value))
    _left.sizes[id(value)] = value, size
    return size


def _held(value: Any) -> Any:
    """A value after a check of its size, since comparing, hashing or sorting visits each repetition in it."""
    if isinstance(value, (list, tuple, dict)):
        _require_few(_size(value))
    return value


def _require_few(parts: int) -> None:
    if parts > _left.parts:
        raise TooMuch("it makes lists of more parts than a conversation needs")


@jinja2.pass_context
def _literal(context: Any, value: Any) -> Any:
    _left.take(0, _NUMBER)
    return _held(value)


@jinja2.pass_context
def _compared(context: Any, value: Any) -> Any:
    """A value that is compared with another, after its cost is charged; eight nested values cost one round."""
    if isinstance(value, (list, tuple, dict)):
        _left.take(_size(value) >> 3, 0)
    return value


@jinja2.pass_context  # so that Jinja does not count the rounds of a constant when it compiles
def _looped(context: Any, values: Iterable[Any], text: int) -> Iterable[Any]:
    """The values of a loop, after its rounds are charged; `text` is the number of characters in its body."""
    if isinstance(values, Sized):
        _left.take(len(values), len(values) * text)
        return values
    return _rounds(values, text)


def _rounds(values: Iterable[Any], text: int = 0) -> Iterator[Any]:
    for value in values:
        _left.take(1, text)
        yield value


@jinja2.pass_context
def _joined(context: Any, value: Any) -> Any:
    return printed(value)


@jinja2.pass_context
def _sum(context: Any, first: Any, *others: Any) -> Any:
    """The sum of values from left to right, after its size is charged."""
    total = first
    for other in others:
        total = total + other
        if isinstance(total, Sized):
            _left.take(0, len(total))
    return _held(total)


class _Sums(NodeTransformer):
    """Turns a chain of `+` into one call, since intercepting each would dominate the time of a rendering."""

    def visit_Add(self, node: nodes.Add) -> nodes.Node:  # named after the node
        self.generic_visit(node)
        if isinstance(node.left, nodes.Filter) and node.left.name == " sum":
            node.left.args.append(node.right)
            return node.left
        return nodes.Filter(node.left, " sum", [node.right], [], None, None)


class _Held(NodeTransformer):
    """Passes lists, tuples and dictionaries through `_literal`, and compared values through `_compared`.

    Constants are left alone, since they cannot hold a value twice.
    """

    def visit_List(self, node: nodes.List | nodes.Tuple | nodes.Dict) -> nodes.Node:
        self.generic_visit(node)
        is_target = isinstance(node, nodes.Tuple) and node.ctx != "load"
        literals = (nodes.Const, nodes.List, nodes.Tuple, nodes.Dict)
        if is_target or all(isinstance(part, literals) for part in node.find_all(nodes.Expr)):
            return node
        return nodes.Filter(node, " literal", [], [], None, None)

    visit_Tuple = visit_Dict = visit_List

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        self.generic_visit(node)
        if not any(isinstance(side, nodes.Const) for side in (node.expr, *(operand.expr for operand in node.ops))):
            node.expr = nodes.Filter(node.expr, " compared", [], [], None, None)
            for operand in node.ops:
                operand.expr = nodes.Filter(operand.expr, " compared", [], [], None, None)
        return node


class Sandbox(ImmutableSandboxedEnvironment):
    """The environment that templates are compiled and rendered in."""

    intercepted_binops = frozenset(("*", "**", "%"))

    def __init__(self, filters: Mapping[str, Callable[..., Any]], **options: Any) -> None:
        """Make an environment.

        Args:
            filters: filters in addition to Jinja's own.
            options: options of Jinja's environment.
        """
        super().__init__(finalize=printed, **options)
        wanted = {name: plain for name, plain in self.filters.items() if name not in _NO_FILTERS} | dict(filters)
        self.filters = {name: _counted(name, plain) for name, plain in wanted.items()}
        own = {" looped": _looped, " joined": _joined, " sum": _sum, " literal": _literal, " compared": _compared}
        self.filters |= own  # a template cannot write names with a space
        del self.globals["lipsum"]

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        if len(source) > MOST_SOURCE:
            raise jinja2.TemplateSyntaxError(f"it has more than {MOST_SOURCE} characters", 1)
        tree = super()._parse(source, name, filename)
        for loop in list(tree.find_all(nodes.For)):
            text = sum(len(data.data) for data in loop.find_all(nodes.TemplateData))
            loop.iter = nodes.Filter(loop.iter, " looped", [nodes.Const(text)], [], None, None)
        for joined in list(tree.find_all(nodes.Concat)):
            joined.nodes = [nodes.Filter(p, " joined", [], [], None, None) for p in joined.nodes]
        _Sums().visit(tree)
        _Held().visit(tree)
        return tree

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:  # noqa: D102  # jinja2's own
        if operator == "%":
            if isinstance(left, str):
                _require_narrow(left)
                printed(right)
        else:
            _take_product(operator, left, right)
        return _held(self.binop_table[operator](left, right))

    def call(self, context: Any, called: Any, *arguments: Any, **named: Any) -> Any:  # noqa: D102  # jinja2's own
        owner = getattr(called, "__self__", None)
        if type(owner) is str:
            if called.__name__ == "join":
                _take_joined(owner, *arguments)
            elif called.__name__ == "replace":
                _take_replaced(owner, *arguments)
        elif type(owner) in (list, tuple):
            _left.take(_size(owner) >> 3, 0)  # it may be searched
        _require_few(sum(map(_size, (*arguments, *named.values()))))  # a macro can collect them: varargs and kwargs
        return _result(super().call(context, called, *arguments, **named))

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:  # noqa: D102  # jinja2's own
        plain = super().wrap_str_format(value)
        if plain is None:
            return None

        def narrow(*arguments: Any, **named: Any) -> str:
            _require_narrow(value.__self__)
            printed([*arguments, *named.values()])
            return plain(*arguments, **named)

        return narrow

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:  # noqa: D102  # jinja2's own
        return not (isinstance(obj, str) and attr in _NO_METHODS) and super().is_safe_attribute(obj, attr, value)


def _counted(name: str, plain: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that charges what it reads and makes to the budget."""
    first = 1 if hasattr(plain, "jinja_pass_arg") else 0  # the context or the environment may come first

    @functools.wraps(plain)
    def counted(*arguments: Any, **named: Any) -> Any:
        value = arguments[first]
        if name in _PRINTING_FILTERS:
            if isinstance(value, Iterator):  # read here so that each value is charged
                value = list(_rounds(value))
                arguments = (*arguments[:first], value, *arguments[first + 1 :])
            _take_filter(name, value, [*arguments[first + 1 :], *named.values()])
        elif isinstance(value, Sized) and not isinstance(value, str):
            _left.take(len(value) + (_size(value) >> 3), 0)
        return _result(plain(*arguments, **named))

    return counted


def _result(value: Any) -> Any:
    _left.take(CALL, len(value) if isinstance(value, (str, list, tuple)) else 0)
    return _held(value)


def _take_filter(name: str, value: Any, arguments: list[Any]) -> None:
    """Charge for a filter that makes a text from a value."""
    printed(value)
    printed(arguments)
    text = value if isinstance(value, str) else ""
    if name in ("indent", "tojson"):
        width = max((abs(x) for x in arguments if isinstance(x, int)), default=4)
        if width > _WIDEST:
            raise TooMuch("it asks for a very large indent")
        _left.take(0, width * (text.count("\n") + 1))
    elif name == "format":
        _require_narrow(text)
    elif name == "join":
        _take_joined(*arguments[:1], value)
    elif name == "replace":
        _take_replaced(str(value), *arguments)


def _take_joined(between: Any = "", values: Any = (), *_: Any) -> None:
    if isinstance(values, Sized):
        printed(values if isinstance(values, (list, tuple)) else None)
        _left.take(len(values), len(str(between)) * len(values))


def _take_replaced(text: str, old: Any = "", new: Any = "", *_: Any) -> None:
    _left.take(0, (text.count(str(old)) if old else len(text) + 1) * len(str(new)))


def _take_product(operator: str, left: Any, right: Any) -> None:
    for many, times in ((left, right), (right, left)):
        if isinstance(many, Sized) and isinstance(times, int):
            _left.take(0, len(many) * max(times, 0))
    if isinstance(left, int) and isinstance(right, int):
        bits = left.bit_length() * right if operator == "**" else left.bit_length() + right.bit_length()
        if bits > _BITS:
            raise TooMuch("it computes with a very large number")


def _require_narrow(text: str) -> None:
    """Refuse a format with a very wide field, or with a computed width."""
    if _WIDE_FIELD.search(text):
        raise TooMuch("it formats a very wide field")
