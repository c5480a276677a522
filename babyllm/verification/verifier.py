"""Checks of an answer by its kind: arithmetic, JSON by a schema, Python and SQL.

record -> its answer, and what it is checked by -> Verdict
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from babyllm.errors import UserError
from babyllm.sandbox.execution import query_match
from babyllm.sandbox.python import SnippetLimits, Snippets
from babyllm.sandbox.sql import QueryLimits, Sandbox
from babyllm.sandbox.sql_scores import DATABASE, database_files
from babyllm.verification.expressions import NoValue
from babyllm.verification.json_schemas import JsonSchemas
from babyllm.verification.programs import NoTests, wrong_program
from babyllm.verification.sums import wrong_equation, wrong_result
from babyllm.verification.verify_config import VerifyConfig

ANSWER = ("answer", "output", "prediction", "completion")
QUERY = ("sql", "query", "gold")


@dataclass(frozen=True)
class Verdict:
    """What became of an answer.

    Attributes:
        passed: whether it is right.
        reason: empty if it passed. Otherwise a kind, and after a colon what it was: "wrong: ...", "error: ...",
            "timeout", "memory", "crash: ...", "record: ..."; and for SQL "other rows" and those of `QueryResult`.
        is_fault: whether the record has no answer or nothing to check it by, so that nothing is known.
    """

    passed: bool
    reason: str = ""
    is_fault: bool = False


class Verifier:
    """Checks answers; a context manager, safe for use by threads. Processes start when they are first needed.

    Args:
        config: limits, and what the checks need.
    """

    def __init__(self, config: VerifyConfig | None = None) -> None:
        self.config = config or VerifyConfig()

    def verify(self, kind: str, record: Mapping[str, Any], answer: str | None = None) -> Verdict:
        """Whether the answer of a record is right.

        Args:
            kind: one of `KINDS`. "arithmetic" takes `expression`, whose value is the last number of the answer, or else
                the equations of the answer. "json_schema" takes `schema`. "python" takes `calls`, `cases` or `tests`.
                "sql" takes `database` and the right query in `sql`.
            record: record with these fields, and the answer in `answer`, `output`, or the last of its `messages`.
            answer: answer, in place of the record's.

        Raises:
            UserError: there is no such kind, or what the check needs is missing: a package, a folder, the system's
                guards.
        """
        if kind not in KINDS:
            raise UserError(f"there is no check called {kind}; write one of {', '.join(KINDS)}")
        text = answer_of(record) if answer is None else answer
        if text is None:
            return Verdict(False, "record: has no answer", is_fault=True)
        try:
            return KINDS[kind](self, text, record)
        except (NoValue, NoTests) as error:
            return Verdict(False, f"record: {error}", is_fault=True)

    def close(self) -> None:
        """End the processes; a check that comes later starts them again."""
        for name in ("sandbox", "schemas"):
            if name in self.__dict__:
                self.__dict__[name].close()

    def __enter__(self) -> Verifier:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @cached_property
    def sandbox(self) -> Sandbox:
        """Where queries run."""
        return Sandbox(QueryLimits(seconds=self.config.seconds, memory_bytes=self.config.memory_bytes))

    @cached_property
    def schemas(self) -> JsonSchemas:
        """Where JSON is validated."""
        return JsonSchemas(self.config.seconds, self.config.memory_bytes)

    @cached_property
    def snippets(self) -> Snippets:
        """Where Python runs."""
        config = self.config
        return Snippets(SnippetLimits(config.seconds, config.memory_bytes, unguarded=config.unguarded))


def answer_of(record: Mapping[str, Any]) -> str | None:
    """The answer of a record: a field such as `answer` or `output`, or the last message; None without one."""
    messages = record.get("messages") or record.get("conversations")
    if isinstance(messages, list) and messages and isinstance(messages[-1], dict):
        record = {**messages[-1], **record}
        record.setdefault("answer", messages[-1].get("content", messages[-1].get("value")))
    return next((record[name] for name in ANSWER if isinstance(record.get(name), str)), None)


def _arithmetic(verifier: Verifier, answer: str, record: Mapping[str, Any]) -> Verdict:
    expression = record.get("expression")
    reason = wrong_result(answer, expression) if isinstance(expression, str) else wrong_equation(answer)
    return Verdict(not reason, reason)


def _json_schema(verifier: Verifier, answer: str, record: Mapping[str, Any]) -> Verdict:
    if "schema" not in record:
        return Verdict(False, "record: has no schema", is_fault=True)
    result = verifier.schemas.check(_unfenced(answer), record["schema"])
    return Verdict(not result.reason, result.reason, result.is_fault)


def _unfenced(answer: str) -> str:
    """The text, without the fence around all of it."""
    text = answer.strip()
    if text.startswith("```") and text.endswith("```") and "\n" in text:
        return text.partition("\n")[2].removesuffix("```")
    return text


def _python(verifier: Verifier, answer: str, record: Mapping[str, Any]) -> Verdict:
    reason = wrong_program(verifier.snippets, answer, record)
    return Verdict(not reason, reason)


def _sql(verifier: Verifier, answer: str, record: Mapping[str, Any]) -> Verdict:
    if verifier.config.databases is None:
        raise UserError("sql needs a folder of SQLite files; give databases=DIR")
    name = next((record[key] for key in DATABASE if isinstance(record.get(key), str)), "")
    query = next((record[key] for key in QUERY if isinstance(record.get(key), str)), "")
    files = database_files(Path(verifier.config.databases), name)
    if not files or not query:
        return Verdict(False, f"record: has no {'query' if files else 'database'}", is_fault=True)
    match = query_match(verifier.sandbox, files, answer, query)
    if match.fault:
        return Verdict(False, f"record: {match.fault}", is_fault=True)
    return Verdict(match.is_right, match.reason)


KINDS: dict[str, Callable[[Verifier, str, Mapping[str, Any]], Verdict]] = {
    "arithmetic": _arithmetic,
    "json_schema": _json_schema,
    "python": _python,
    "sql": _sql,
}
"""A check for each kind."""


@cache
def _shared() -> Verifier:
    return Verifier()


def verify(kind: str, record: Mapping[str, Any], answer: str | None = None) -> Verdict:
    """Whether the answer of a record is right, with the limits of `VerifyConfig()`; see `Verifier.verify`."""
    return _shared().verify(kind, record, answer)
