"""Checks of what a model claims: quotes, calls of tools, forms of text, arithmetic, code.

A check reads the values of an item and returns what is wrong, with details after a colon; an empty text is right.
"""

from __future__ import annotations

import ast
import json
import operator
import re
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

from babyllm.errors import UserError
from babyllm.sandbox.python_code import run_python, why_not
from babyllm.synthesis.rules.json_schema import fault_in
from babyllm.text.dedup.normal import normal_form

_OPERATORS: dict[type, Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_NUMBER = r"-?\d{1,15}(?:,\d{3})*(?:\.\d{1,10})?"
_EQUATION = re.compile(
    rf"((?:[(\s]*{_NUMBER}[)\s]*[-+*/×÷−]){{1,20}}[(\s]*{_NUMBER}[)\s]*)=\s*({_NUMBER})(?![\d.]*\s*[-+*/×÷−=%])"
)
_MARKS = re.compile(r"(?m)^ {0,3}(?:#{1,6} |[-*+] |\d{1,3}[.)] |> |```)|\*\*[^*\n]+\*\*|^\|.*\|\s*$")


def is_within(text: str, document: str) -> bool:
    """Whether a text occurs in a document, apart from case, width, spaces and punctuation."""
    wanted = normal_form(text)
    return bool(wanted) and wanted in normal_form(document)


def equation_faults(text: str) -> list[str]:
    """The equations in a text whose two sides differ, such as 2 + 2 = 5; rounded results are right."""
    faults = []
    for found in _EQUATION.finditer(text):
        said = found[2].replace(",", "")
        value = _value(found[1])
        if value is None:
            continue
        digits = len(said.partition(".")[2])
        if abs(value - Fraction(said)) > Fraction(1, 2 * 10**digits) * (1 if digits else 0):
            faults.append(" ".join(found[0].split()))
    return faults


def _value(expression: str) -> Fraction | None:
    text = expression.replace(",", "").translate(str.maketrans("×÷−", "*/-"))
    try:
        return _of(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError, MemoryError):
        return None


def _of(node: ast.expr) -> Fraction:
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        return _OPERATORS[type(node.op)](_of(node.left), _of(node.right))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_of(node.operand)
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return Fraction(str(node.value))
    raise ValueError("not arithmetic")


def _arithmetic(values: Mapping[str, Any]) -> str:
    faults = equation_faults(str(values["answer"]))
    return f"wrong arithmetic: {faults[0]}" if faults else ""


def _quoted(values: Mapping[str, Any]) -> str:
    return "" if is_within(str(values["quote"]), str(values["document"])) else "quote is not in the document"


def _answered(values: Mapping[str, Any]) -> str:
    return "" if is_within(str(values["answer"]), str(values["key"])) else "answer is not in the key"


def _tool_call(values: Mapping[str, Any]) -> str:
    name, arguments = values["call"].get("name"), values["call"].get("arguments", {})
    if values.get("no_call"):
        return "" if name == "none" else "a call where none is wanted"
    tool = next((tool["function"] for tool in values["tools"] if tool["function"]["name"] == name), None)
    if tool is None:
        return f"no such tool: {str(name)[:80]}"
    if not isinstance(arguments, dict):
        return "arguments do not fit: they are not an object"
    schema = {"additionalProperties": False, **tool.get("parameters", {"type": "object", "properties": {}})}
    fault = fault_in(arguments, schema)
    return f"arguments do not fit: {fault}" if fault else ""


def _python(values: Mapping[str, Any]) -> str:
    if why := why_not():
        raise UserError(f"keep.check: [python]: {why}; leave the check out of the recipe, or use another system")
    code, tests = (_unfenced(str(values[name])) for name in ("code", "tests"))
    if "assert" not in tests:
        return "no test"
    result = run_python(f"{code}\n\n{tests}\n")
    return f"code fails its tests: {result.reason}" if result.reason else ""


def _form(values: Mapping[str, Any]) -> str:
    form, text = values["form"], str(values["answer"])
    if form == "json":
        try:
            return "" if isinstance(json.loads(_unfenced(text)), (dict, list)) else "not JSON"
        except (ValueError, RecursionError):
            return "not JSON"
    if form == "markdown":
        return "" if _MARKS.search(text) else "no Markdown"
    return "marks of Markdown in plain text" if form == "plain" and _MARKS.search(text) else ""


def _unfenced(text: str) -> str:
    found = re.fullmatch(r"\s*```\w*[ \t]*\n(.*)\n[ \t]*```\s*", text, re.DOTALL)
    return found[1] if found else text


CHECKS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "arithmetic": _arithmetic,
    "quoted": _quoted,
    "answered": _answered,
    "tool_call": _tool_call,
    "form": _form,
    "python": _python,
}
