"""A process that starts the ranks of runs; light, for it loads no torch itself."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "train_pretrain.py"
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


class Worker:
    """A process that has imported torch and forks one process per rank for each job; see `train_worker.py`.

    A job that a failed test left behind is killed before the next one begins.

    Args:
        folder: where it runs, and where `output` has what the last job printed.
        modules: Modules with a table JOBS of more jobs.
    """

    def __init__(self, folder: Path, modules: Sequence[str] = ()) -> None:
        self.output = folder / "output.txt"
        self._server = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("train_worker.py")), *modules],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **ONE_THREAD, "PYTHONPATH": str(ROOT)},
            cwd=folder,
            text=True,
        )
        self._running: list[int] = []
        assert self._answer() == "ready"

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *exception: object) -> None:
        self._end_what_runs()
        self._server.communicate()

    def load(self, module: str) -> None:
        """Have the jobs of one more module."""
        self._ask({"load": module})
        assert self._answer() == "ready"

    def start(self, job: str, *, ranks: int = 1, **arguments: Any) -> list[int]:
        """Begin a job and return the ids of its processes, by rank."""
        self._end_what_runs()
        self._ask({"job": job, "ranks": ranks, "output": str(self.output), "arguments": arguments})
        self._running = self._answer()
        return self._running

    def wait(self) -> list[int]:
        """Exit statuses of the job's processes, by rank; negative for a signal."""
        statuses: list[int] = self._answer()
        self._running = []
        return statuses

    def run(self, job: str, *, ranks: int = 1, **arguments: Any) -> None:
        """Run a job to its end, which must be a good one."""
        self.start(job, ranks=ranks, **arguments)
        statuses = self.wait()
        assert statuses == [0] * ranks, f"{statuses}\n{self.output.read_text()}"

    def _end_what_runs(self) -> None:
        if not self._running:
            return
        for pid in self._running:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.wait()

    def _ask(self, request: dict[str, Any]) -> None:
        assert self._server.stdin
        print(json.dumps(request), file=self._server.stdin, flush=True)

    def _answer(self) -> Any:
        assert self._server.stdout
        return json.loads(self._server.stdout.readline())
