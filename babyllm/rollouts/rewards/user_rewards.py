"""Rewards of a user's own module, computed in a process of their own, which may print, fail or hang.

module:function -> child process -> a line of JSON for each call -> rewards
                                 -> no line in time: the process is killed, and the next call starts another
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from babyllm.errors import UserError
from babyllm.prediction.sample_rules import Turns

START_S = 120.0  # to import the module


class RewardFailed(Exception):
    """A call that gave no rewards; the message is the reason."""


class UserReward:
    """A function `module:function` of a module that Python finds in the folder where the run was started.

    What the function prints goes to the standard error output.
    """

    def __init__(self, name: str, timeout_s: float, *, result: str = "reward", subject: str = "answer") -> None:
        """Take a function, which is imported at the first call.

        Args:
            name: `module:function`.
            timeout_s: seconds in which a call must return.
            result: word for what the function returns, for messages.
            subject: word for what it is called with.
        """
        self.name, self._timeout_s = name, timeout_s
        self._result, self._subject = result, subject
        self._process: subprocess.Popen[bytes] | None = None
        self._end: Callable[[], object] = lambda: None

    def __call__(
        self, prompts: Sequence[Turns], answers: Sequence[str], records: Sequence[Mapping[str, Any]]
    ) -> list[float | None]:
        """The rewards of answers; None where the function returns None or a number that is not finite.

        Raises:
            UserError: the function cannot be imported, which no later call would change.
            RewardFailed: the function raised, hung, ended its process or returned something else than a list of
                numbers, one for each answer.
        """
        return self.numbers([list(prompts), list(answers), list(records)], len(answers))

    def numbers(self, arguments: Sequence[Any], n: int) -> list[float | None]:
        """What the function returns for these arguments, JSON values: n numbers; errors are those of a call."""
        reply = self._answer(json.dumps(arguments, default=str))
        if "error" in reply:
            raise RewardFailed(str(reply["error"]))
        rewards = reply["rewards"]
        if not isinstance(rewards, list) or len(rewards) != n:
            got = len(rewards) if isinstance(rewards, list) else type(rewards).__name__
            raise RewardFailed(f"returned {got} {self._result}s for {n} {self._subject}s")
        return [None if reward is None or not math.isfinite(reward) else float(reward) for reward in rewards]

    def _answer(self, request: str) -> dict[str, Any]:
        """The reply of the child to a request."""
        if self._process is None:
            self._process = _start(self.name)
            self._end = weakref.finalize(self, _end, self._process)  # also when the run ends
            first = self._line(START_S)
            if "error" in first:
                self.close()
                raise UserError(f"the {self._result} {self.name} {first['error']}; correct it or its module:function")
        with contextlib.suppress(OSError):
            assert self._process.stdin is not None
            self._process.stdin.write(request.encode() + b"\n")
            self._process.stdin.flush()
        return self._line(self._timeout_s)

    def _line(self, seconds: float) -> dict[str, Any]:
        process = self._process
        assert process is not None and process.stdout is not None
        is_late = threading.Event()

        def end() -> None:
            is_late.set()
            _kill(process)

        timer = threading.Timer(seconds, end)
        timer.start()
        line = process.stdout.readline()
        timer.cancel()
        try:
            found: dict[str, Any] = json.loads(line)
            return found
        except ValueError:
            self.close()
            return {"error": f"took more than {seconds:g} s" if is_late.is_set() else "ended its process"}

    def close(self) -> None:
        """End the child."""
        self._process = None
        self._end()


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill a child and close its pipes."""
    _kill(process)
    for pipe in (process.stdin, process.stdout):
        if pipe:
            with contextlib.suppress(OSError):
                pipe.close()
    process.wait()


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a child and all that it has started, which would hold its pipes open."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _start(name: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "babyllm.rollouts.rewards.reward_worker", name]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, cwd=os.getcwd(), start_new_session=True)
