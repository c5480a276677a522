"""Checks of what a model claims: quotes, calls of tools, forms of text, arithmetic, code, SQL.

A check reads the values of an item and returns what is wrong, with details after a colon; an empty text is right.
"""

from __future__ import annotations

import atexit
import json
import re
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from babyllm.errors import UserError
from babyllm.sandbox.execution import query_match
from babyllm.sandbox.sql import Sandbox
from babyllm.sandbox.sql_text import sql_in
from babyllm.synthesis.rules.json_schema import fault_in
from babyllm.text.dedup.normal import normal_form
from babyllm.verification.programs import code_in
from babyllm.verification.sums import NO_EQUATION, wrong_equation
from babyllm.verification.verifier import verify

_MARKS = re.compile(r"(?m)^ {0,3}(?:#{1,6} |[-*+] |\d{1,3}[.)] |> |```)|\*\*[^*\n]+\*\*|^\|.*\|\s*$")


def is_within(text: str, document: str) -> bool:
    """Whether a text occurs in a document, apart from case, width, spaces and punctuation."""
    wanted = normal_form(text)
    return bool(wanted) and wanted in normal_form(document)


def _arithmetic(values: Mapping[str, Any]) -> str:
    reason = wrong_equation(str(values["answer"]))
    return "" if reason in ("", NO_EQUATION) else reason.replace("wrong:", "wrong arithmetic:", 1)


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
    if "assert" not in str(values["tests"]):
        return "no test"
    verdict = verify("python", {"tests": code_in(str(values["tests"]))}, str(values["code"]))
    return "" if verdict.passed else f"code fails its tests: {verdict.reason}"


def _sql(values: Mapping[str, Any]) -> str:
    database = Path(str(values["database"])).expanduser()
    if not database.is_file():
        raise UserError(f"check: [sql]: {database}: no such SQLite file; name it in the value or option `database`")
    query = sql_in(str(values["sql"]))
    if right := str(values.get("expected") or ""):
        match = query_match(_sandbox(), [database], query, right)
        if match.fault:
            return f"expected query fails: {match.fault}"
        return "" if match.is_right else f"query returns other rows: {match.reason}"
    found = _sandbox().query(database, query)
    if found.reason:
        return f"query fails: {found.reason}"
    return "" if found.rows else "query returns no rows"


@cache
def _sandbox() -> Sandbox:
    """Where queries run; its process ends with this one."""
    sandbox = Sandbox()
    atexit.register(sandbox.close)
    return sandbox


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
    "sql": _sql,
}
