"""Whether a Python program does what a record asks: calls with their values, inputs with their outputs, assertions."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from babyllm.sandbox.python import Snippets

MAX_CASES = 100
_FENCE = re.compile(r"```[ \t]*(\w*)[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL)


class NoTests(ValueError):
    """A record has nothing to test a program with; the message says what is wrong."""


def code_in(answer: str) -> str:
    """The program in an answer: its fenced blocks of Python, else its first fenced block, else the whole."""
    blocks: list[tuple[str, str]] = _FENCE.findall(answer)
    of_python = [code for language, code in blocks if language.lower() in ("python", "py", "python3")]
    return "\n".join(of_python) or (blocks[0][1] if blocks else answer)


def wrong_program(snippets: Snippets, answer: str, record: Mapping[str, Any]) -> str:
    """The reason for which the program of an answer fails the tests of a record; empty if it passes them all.

    Args:
        snippets: where the program runs.
        answer: answer with the program.
        record: has one or more of `calls`, a list of {"call": "f(2)", "expected": 4}; `cases`, a list of {"stdin":
            "2", "output": "4"}; and `tests`, a text or a list of texts with assertions.

    Raises:
        NoTests: it has none of these, or one that cannot be used.
        UserError: this system cannot keep a program from files, network and processes.
    """
    code = code_in(answer)
    calls, cases, tests = _pairs(record, "calls", "call"), _pairs(record, "cases", "stdin"), _tests(record)
    if not (calls or cases or tests):
        raise NoTests("the record has no calls, cases or tests")
    if tests and (reason := snippets.run(code, tests=tests).reason):
        return reason
    return _wrong_call(snippets, code, calls) or _wrong_case(snippets, code, cases)


def _wrong_call(snippets: Snippets, code: str, calls: list[tuple[str, Any]]) -> str:
    if not calls:
        return ""
    result = snippets.run(code, calls=[call for call, _ in calls])
    if result.reason:
        return result.reason
    if len(result.values) != len(calls):
        return "wrong: another number of values"
    for (call, expected), value in zip(calls, result.values, strict=True):
        if not is_same(value, expected):
            return f"wrong: {call[:100]} is {str(value)[:100]}, not {str(expected)[:100]}"
    return ""


def _wrong_case(snippets: Snippets, code: str, cases: list[tuple[str, Any]]) -> str:
    for number, (stdin, expected) in enumerate(cases, 1):
        result = snippets.run(code, stdin=stdin)
        if result.reason:
            return result.reason
        if _lines(result.output) != _lines(str(expected)):
            return f"wrong: case {number} prints {result.output[:100]!r}, not {str(expected)[:100]!r}"
    return ""


def is_same(value: Any, expected: Any) -> bool:
    """Whether two JSON values are equal; floats may differ by a billionth, and true is not 1."""
    if isinstance(value, bool) or isinstance(expected, bool):
        return value is expected
    if isinstance(value, int | float) and isinstance(expected, int | float):
        if isinstance(value, int) and isinstance(expected, int):
            return value == expected
        try:
            return math.isclose(value, expected, rel_tol=1e-9, abs_tol=1e-12) or value == expected
        except OverflowError:
            return False
    if isinstance(value, list) and isinstance(expected, list):
        return len(value) == len(expected) and all(map(is_same, value, expected))
    if isinstance(value, dict) and isinstance(expected, dict):
        return value.keys() == expected.keys() and all(is_same(value[key], expected[key]) for key in value)
    return type(value) is type(expected) and bool(value == expected)


def _lines(text: str) -> list[str]:
    """Lines without spaces at their ends and without empty lines at the end of the text."""
    return [line.rstrip() for line in text.rstrip().splitlines()]


def _pairs(record: Mapping[str, Any], name: str, first: str) -> list[tuple[str, Any]]:
    second = "expected" if name == "calls" else "output"
    values = record.get(name) or []
    if not isinstance(values, list) or len(values) > MAX_CASES:
        raise NoTests(f"{name} is not a list of at most {MAX_CASES}")
    for value in values:
        if not isinstance(value, dict) or not isinstance(value.get(first), str) or second not in value:
            raise NoTests(f"{name} has an entry without {first} and {second}")
    return [(value[first], value[second]) for value in values]


def _tests(record: Mapping[str, Any]) -> str:
    tests = record.get("tests") or ""
    lines = tests if isinstance(tests, list) else [tests]
    if not all(isinstance(line, str) for line in lines):
        raise NoTests("tests is not text")
    return "\n".join(lines)
