"""Whether a text is JSON that a schema admits, found in a worker process with a limit of time."""

from __future__ import annotations

import json
import sys
import threading
from typing import Any, NamedTuple

from babyllm.errors import UserError
from babyllm.sandbox.worker_process import WorkerProcess
from babyllm.verification import schema_worker

MAX_BYTES = 4 << 20
ANSWER_BYTES = 4 << 10


class SchemaResult(NamedTuple):
    """What became of a text.

    Attributes:
        reason: empty if the schema admits it; else "wrong: $.age: ...", "schema: ...", "timeout" or "memory".
        is_fault: whether the schema cannot be used, or not in the time and memory that there is.
    """

    reason: str
    is_fault: bool = False


class JsonSchemas:
    """Validates texts, one at a time, by the rules of the package jsonschema; safe for use by threads.

    Args:
        seconds: time for one text on the clock.
        memory_bytes: memory of the process, beside 256 MiB for Python and the package.
    """

    def __init__(self, seconds: float, memory_bytes: int) -> None:
        limits = json.dumps({"memory_bytes": memory_bytes})
        command = [sys.executable, "-I", "-B", "-X", "utf8", str(schema_worker.__file__), limits]
        self._worker, self._seconds = WorkerProcess(command), seconds
        self._lock = threading.Lock()

    def check(self, text: str, schema: Any) -> SchemaResult:
        """Whether a text is JSON that a schema admits.

        Raises:
            UserError: jsonschema is not installed, or no process can be started.
        """
        if len(text) > MAX_BYTES:
            return SchemaResult(f"wrong: longer than {MAX_BYTES} characters")
        if not isinstance(schema, dict | bool) or len(json.dumps(schema)) > MAX_BYTES:
            return SchemaResult(f"schema: not an object of at most {MAX_BYTES} bytes", is_fault=True)
        with self._lock:
            if self._worker.process is None:
                self._worker.start()
                if "missing" in self._worker.greeting:
                    self._worker.stop()
                    raise UserError("JSON schemas need the package jsonschema; run pip install 'babyllm[verify]'")
            found = self._worker.answer({"schema": schema, "text": text}, self._seconds, ANSWER_BYTES)
        reason = str(found.get("reason", ""))
        return SchemaResult(reason, bool(reason) and not reason.startswith("wrong:"))

    def close(self) -> None:
        """End the process; a text that comes later starts one again."""
        with self._lock:
            self._worker.stop()
