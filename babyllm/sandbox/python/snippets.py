"""Untrusted Python, each snippet in a fresh process: what it prints and returns, or the reason for neither.

What each system adds: Linux from 5.13 with Landlock takes files, network and processes from the process, on x86-64 and
64-bit ARM. Elsewhere there is only the clock, and on macOS limits of time and files: snippets are refused there unless
`SnippetLimits.unguarded` accepts it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from babyllm.config.values import Count, PositiveSeconds, check
from babyllm.errors import UserError
from babyllm.sandbox.python import snippet_worker
from babyllm.sandbox.worker_process import WorkerProcess

MAX_CODE_BYTES = 1 << 20


@dataclass(frozen=True)
class SnippetLimits:
    """How much one Python snippet may use.

    Attributes:
        seconds: time on the clock.
        memory_bytes: memory of the process, beside 64 MiB for Python itself; macOS and Windows do not limit it.
        output_bytes: size of what it prints and returns.
        unguarded: whether code runs also where the system cannot keep it from files, network and processes.
    """

    seconds: PositiveSeconds = 5.0
    memory_bytes: Count = 256 << 20
    output_bytes: Count = 64 << 10
    unguarded: bool = False


@dataclass(frozen=True)
class SnippetResult:
    """What became of a snippet.

    Attributes:
        output: text that it printed.
        values: values of the calls, as JSON has them: a tuple is a list.
        reason: empty if it ran to its end. Otherwise a kind, and after a colon what it was: "timeout", "memory", "too
            large: ...", "error: ValueError: ...", "crash: exit status -11".
    """

    output: str = ""
    values: tuple[Any, ...] = ()
    reason: str = ""


class Snippets:
    """Runs snippets, each in a process of its own, one at a time; safe for use by threads.

    Args:
        limits: what one snippet may use.

    Raises:
        UserError: a limit is out of its range.
    """

    def __init__(self, limits: SnippetLimits | None = None) -> None:
        self.limits = limits or SnippetLimits()
        check(self.limits)
        limit = {name: getattr(self.limits, name) for name in ("seconds", "memory_bytes", "output_bytes")}
        flags = ["-I", "-S", "-B", "-X", "utf8"]
        self._command = [sys.executable, *flags, str(snippet_worker.__file__), json.dumps(limit)]

    def run(self, code: str, *, stdin: str = "", tests: str = "", calls: Sequence[str] = ()) -> SnippetResult:
        """What a snippet prints and returns, or the reason for neither.

        Args:
            code: a program, which has the standard library alone.
            stdin: text that it reads.
            tests: code that runs after it in the same names, such as assertions. A snippet that means to can fool them.
            calls: expressions that are evaluated after it; it cannot know what value is wanted.

        Raises:
            UserError: no process can be started, or this system cannot shut one in.
        """
        request = {"code": code, "stdin": stdin, "tests": tests, "calls": list(calls)}
        if len(json.dumps(request)) > MAX_CODE_BYTES:
            return SnippetResult(reason=f"too large: code of more than {MAX_CODE_BYTES} bytes")
        worker = WorkerProcess(self._command, environment={}, is_alone=True)
        try:
            worker.start()
            self._require_guards(worker)
            return self._result(worker.answer(request, self.limits.seconds, self.limits.output_bytes))
        finally:
            worker.stop()

    def _require_guards(self, worker: WorkerProcess) -> None:
        missing = worker.greeting.get("missing")
        if missing and not self.limits.unguarded:
            raise UserError(
                f"Python snippets are not run: this system does not take {' and '.join(missing)} from a process; run "
                "them on Linux with Landlock, or accept the risk with unguarded=true"
            )

    def _result(self, answer: dict[str, Any]) -> SnippetResult:
        """The result in an answer, which the snippet may have written itself."""
        reason, output, values = answer.get("reason", ""), answer.get("output", ""), answer.get("values", [])
        if not (isinstance(reason, str) and isinstance(output, str) and isinstance(values, list)):
            return SnippetResult(reason="crash: an answer that makes no sense")
        if reason:
            return SnippetResult(reason=reason[:500])
        if len(output.encode("utf-8", "replace")) > self.limits.output_bytes:
            return SnippetResult(reason=f"too large: printed more than {self.limits.output_bytes} bytes")
        return SnippetResult(output, tuple(values))
