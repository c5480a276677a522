"""Exact values of arithmetic: an expression, read as a tree, becomes a fraction; nothing in it is executed.

"1,200 × (3 + 4) ÷ 7" -> plain signs -> ast -> Fraction(1200, 1)
"""

from __future__ import annotations

import ast
import math
import re
import unicodedata
from collections.abc import Callable
from fractions import Fraction

MAX_CHARACTERS, MAX_DEPTH, MAX_BITS = 1000, 40, 100_000
PLACES = 2  # decimals that a rounded number has at least

_SIGNS = str.maketrans(
    {"×": "*", "✕": "*", "·": "*", "⋅": "*", "∗": "*", "÷": "/", "−": "-", "–": "-", "^": "**", "[": "(", "]": ")"}
)
_COMMA = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_PERCENT = re.compile(r"(\d+(?:\.\d+)?)\s*%(?!\s*[\d(.])")
_TIMES = re.compile(r"(?<=[\d)])\s*[xX]\s*(?=[\d(])")
_LEADING_ZEROS = re.compile(r"(?<![\d.])0+(?=\d)")


class NoValue(ValueError):
    """An expression has no value; the message is the reason."""


def value_of(text: str) -> Fraction:
    """The exact value of an expression.

    It has numbers, + - * / // % **, the signs × ÷ − ^, brackets, percentages such as 15%, commas between thousands,
    dollar and yuan signs, and the functions abs, ceil, floor, gcd, lcm, max, min, and sqrt where the root is exact.

    Raises:
        NoValue: the text is not an expression, is undefined, or is too long, deep or large.
    """
    if len(text) > MAX_CHARACTERS:
        raise NoValue(f"longer than {MAX_CHARACTERS} characters")
    source = _plain(text)
    _require_shallow(source)
    try:
        tree = ast.parse(source, mode="eval")
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        raise NoValue("not an expression") from None
    return _value(tree.body, source, 0)


def is_rounded(claim: str, value: Fraction) -> bool:
    """Whether a number, as written, is a value or is the value rounded to the places it has, at least two."""
    written = _plain(claim)
    try:
        claimed = value_of(claim)
    except NoValue:
        return False
    places = len(written.partition(".")[2].rstrip(")")) if re.fullmatch(r"\(?-?[\d]*\.\d+\)?", written) else 0
    return claimed == value or (places >= PLACES and abs(claimed - value) <= Fraction(1, 2 * 10**places))


def _plain(text: str) -> str:
    """The expression with Python's signs."""
    text = unicodedata.normalize("NFKC", text.replace("·", "*")).translate(_SIGNS)
    text = re.sub(r"[$¥￥€£\\]", "", text)
    text = _TIMES.sub("*", _COMMA.sub("", text))
    text = _PERCENT.sub(r"(\1/100)", text)
    return _LEADING_ZEROS.sub("", text).strip()


def _require_shallow(source: str) -> None:
    depth = 0
    for sign in source:
        depth += (sign == "(") - (sign == ")")
        if depth > MAX_DEPTH:
            raise NoValue(f"more than {MAX_DEPTH} brackets deep")


def _value(node: ast.expr, source: str, depth: int) -> Fraction:
    if depth > 2 * MAX_DEPTH + MAX_CHARACTERS // 2:
        raise NoValue("too deep")
    if isinstance(node, ast.Constant):
        return _number(node, source)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        inner = _value(node.operand, source, depth + 1)
        return -inner if isinstance(node.op, ast.USub) else inner
    if isinstance(node, ast.BinOp):
        left, right = _value(node.left, source, depth + 1), _value(node.right, source, depth + 1)
        return _small(_operated(node.op, left, right))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.args and not node.keywords:
        return _small(_called(node.func.id, [_value(one, source, depth + 1) for one in node.args]))
    raise NoValue("not arithmetic")


def _number(node: ast.Constant, source: str) -> Fraction:
    """The number as it is written: 0.1 is one tenth."""
    text = (ast.get_source_segment(source, node) or "").replace("_", "")
    if isinstance(node.value, bool) or not isinstance(node.value, int | float) or not re.fullmatch(r"[\d.]+", text):
        raise NoValue("not arithmetic")
    return Fraction(text)


def _operated(operator: ast.operator, left: Fraction, right: Fraction) -> Fraction:
    if isinstance(operator, ast.Pow):
        return _power(left, right)
    if isinstance(operator, ast.Div | ast.FloorDiv | ast.Mod) and not right:
        raise NoValue("a division by zero")
    operations: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
        **{ast.Add: lambda a, b: a + b, ast.Sub: lambda a, b: a - b, ast.Mult: lambda a, b: a * b},
        **{ast.Div: lambda a, b: a / b, ast.FloorDiv: lambda a, b: Fraction(a // b), ast.Mod: lambda a, b: a % b},
    }
    if type(operator) not in operations:
        raise NoValue("not arithmetic")
    return operations[type(operator)](left, right)


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    if exponent == Fraction(1, 2):
        return _root(base)
    if exponent.denominator != 1:
        raise NoValue("a power that is not exact")
    if not base and exponent < 0:
        raise NoValue("a division by zero")
    if abs(exponent) * _bits(base) > MAX_BITS:
        raise NoValue("too large")
    return base ** int(exponent)


def _root(value: Fraction) -> Fraction:
    if value < 0:
        raise NoValue("the root of a negative number")
    root = Fraction(math.isqrt(value.numerator), math.isqrt(value.denominator))
    if root * root != value:
        raise NoValue("a root that is not exact")
    return root


def _called(name: str, values: list[Fraction]) -> Fraction:
    whole = [int(value) for value in values if value.denominator == 1]
    if name in ("gcd", "lcm") and len(whole) == len(values):
        return Fraction(math.gcd(*whole) if name == "gcd" else math.lcm(*whole))
    if name in ("max", "min"):
        return max(values) if name == "max" else min(values)
    single: dict[str, Callable[[Fraction], Fraction]] = {
        **{"abs": abs, "ceil": lambda x: Fraction(math.ceil(x)), "floor": lambda x: Fraction(math.floor(x))},
        "sqrt": _root,
    }
    if name not in single or len(values) != 1:
        raise NoValue("not arithmetic")
    return single[name](values[0])


def _bits(value: Fraction) -> int:
    return value.numerator.bit_length() + value.denominator.bit_length()


def _small(value: Fraction) -> Fraction:
    if _bits(value) > MAX_BITS:
        raise NoValue("too large")
    return value
