"""Contestants that take turns, so that a machine whose speed drifts slows all of them alike.

    worker = start("-m", "benchmarks.training.train", "--worker", ...)    a process, which waits for its turn
    take_turns({name: worker, ...}, 8)                                    each works while the others wait

A worker answers each line on its standard input with a line of JSON; it ends when its input ends.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

Answer = dict[str, Any]
Worker: TypeAlias = "subprocess.Popen[str]"


def start(*arguments: str) -> Worker:
    """A worker: Python with these arguments."""
    return subprocess.Popen([sys.executable, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def take_turns(workers: Mapping[str, Worker], n: int) -> dict[str, list[Answer]]:
    """The answers of each worker: that of its first turn, which warms up, then those of `n` turns; then all end."""
    answers: dict[str, list[Answer]] = {name: [_turn(worker)] for name, worker in workers.items()}
    for _ in range(n):
        for name, worker in workers.items():
            answers[name].append(_turn(worker))
    for worker in workers.values():
        assert worker.stdin
        worker.stdin.close()
        worker.wait()
    return answers


def _turn(worker: Worker) -> Answer:
    assert worker.stdin and worker.stdout
    worker.stdin.write("go\n")
    worker.stdin.flush()
    for line in worker.stdout:
        if line.startswith("{"):
            answer: Answer = json.loads(line)
            return answer
    raise SystemExit("a contestant ended early; its error is above")


def serve(turn: Callable[[], Answer]) -> None:
    """In a worker: take a turn for each line of the standard input."""
    for _ in sys.stdin:
        answer(turn())


def answer(facts: Answer) -> None:
    """In a worker: end its turn."""
    print(json.dumps(facts), flush=True)
