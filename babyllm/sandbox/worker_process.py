"""A process that answers lines of JSON with lines of JSON, and is killed when it is late or says too much.

worker = WorkerProcess([sys.executable, "-I", "-S", "worker.py"])
answer = worker.answer({"sql": "SELECT 1"}, seconds=5, answer_bytes=1 << 20)
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from babyllm.errors import UserError

START_SECONDS = 60.0
GRACE_SECONDS = 0.5  # for a worker that ends a request itself, which is cheaper than another process
ENVELOPE_BYTES = 1 << 20  # of an answer beyond its values: names and brackets


@dataclass
class WorkerProcess:
    """One process, started when it is needed, and used by one thread at a time.

    Attributes:
        command: command line of the worker. It prints a JSON object when it is ready, and one for each request.
        environment: variables of its environment; None takes those of this process.
        is_alone: whether it has a session of its own, and is killed with all that it has started.
        greeting: what it printed when it was ready.
    """

    command: Sequence[str]
    environment: dict[str, str] | None = None
    is_alone: bool = False
    greeting: dict[str, Any] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = field(default=None)

    def answer(self, request: dict[str, Any], seconds: float, answer_bytes: int) -> dict[str, Any]:
        """The answer to a request; the process is replaced if it dies, is late or is disturbed.

        Args:
            request: a JSON object.
            seconds: time on the clock.
            answer_bytes: size of what the answer has, beside names and brackets.

        Returns:
            The worker's object; without one, only `reason`: "timeout" or "crash: exit status 1".

        Raises:
            UserError: the process does not start.
        """
        try:
            process = self.process or self.start()
            assert process.stdin is not None
            with self._killed_after(process, seconds + GRACE_SECONDS) as is_late:
                line = b""
                try:
                    process.stdin.write(json.dumps(request).encode() + b"\n")
                    process.stdin.flush()
                    line = _line(process, answer_bytes)
                except BrokenPipeError:
                    pass
            answer = _object(line)
        except BaseException:
            self.stop()
            raise
        if not answer or is_late.is_set() or answer.get("reason") == "memory":
            status = self.stop()
            return answer or {"reason": "timeout" if is_late.is_set() else f"crash: exit status {status}"}
        return answer

    def start(self) -> subprocess.Popen[bytes]:
        """Start the process and wait until it is ready.

        Raises:
            UserError: it does not start.
        """
        pipe = subprocess.PIPE
        try:
            self.process = subprocess.Popen(
                self.command,
                stdin=pipe,
                stdout=pipe,
                stderr=subprocess.DEVNULL,
                env=self.environment,
                start_new_session=self.is_alone,
            )
        except OSError as error:
            raise UserError(f"the sandbox cannot start a process ({error.strerror}): free some memory") from error
        with self._killed_after(self.process, START_SECONDS):
            line = _line(self.process, 0)
        if not line:
            *words, last = self.command
            raise UserError(f"the sandbox's process does not run: try {' '.join(words)} '{last}'")
        self.greeting = _object(line)
        return self.process

    def stop(self) -> int | None:
        """Kill the process, if there is one; returns its exit status."""
        process, self.process = self.process, None
        if process is None:
            return None
        self._kill(process)
        process.communicate()
        return process.returncode

    def _kill(self, process: subprocess.Popen[bytes]) -> None:
        if self.is_alone and hasattr(os, "killpg"):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
        process.kill()

    @contextmanager
    def _killed_after(self, process: subprocess.Popen[bytes], seconds: float) -> Iterator[threading.Event]:
        """Kill the process if the body takes longer; yields an event that is set when this happens."""
        is_late = threading.Event()

        def end() -> None:
            is_late.set()
            self._kill(process)

        timer = threading.Timer(seconds, end)
        timer.daemon = True
        timer.start()
        try:
            yield is_late
        finally:
            timer.cancel()
            timer.join()  # it may have begun to end the process


def _line(process: subprocess.Popen[bytes], answer_bytes: int) -> bytes:
    assert process.stdout is not None
    return process.stdout.readline(answer_bytes + ENVELOPE_BYTES)


def _object(line: bytes) -> dict[str, Any]:
    """The object of a whole line; empty if it is cut or is anything else."""
    try:
        found = json.loads(line) if line.endswith(b"\n") else {}
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
