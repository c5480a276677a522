"""The runs of a study as child processes, a few at a time, and their progress.

commands of `before`, one after another -> runs, at most `jobs` at once -> marks of those that have finished

Ctrl-C is passed on: each run saves its step, and the next start goes on from there. What fails ends the study, or is
noted.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from babyllm.errors import UserError
from babyllm.files import write_json
from babyllm.progress import ProgressLine, format_duration
from babyllm.runtime.launching.child_program import OWN_PROGRAM, ask_to_stop, end_child, last_words, start_child
from babyllm.runtime.signals import StopSignal
from babyllm.studies.planned_runs import (
    CONFIG,
    PlannedRun,
    begin,
    is_finished,
    made_directory,
    note_end,
    with_directories,
)
from babyllm.studies.run_results import last_step, run_result
from babyllm.studies.study import BASE, Study

_LOOK_S, _SHOW_S = 0.1, 1.0


class Stopped(Exception):
    """A stop signal has ended the work, which the next start continues."""


@dataclass
class _Child:
    run: PlannedRun
    process: subprocess.Popen[bytes]
    began: float = field(default_factory=time.monotonic)
    is_asked_to_stop: bool = False


def run_before(study: Study, stop: StopSignal, program: Sequence[str] = OWN_PROGRAM) -> None:
    """Run the commands that make what base and the arms read, each once.

    Args:
        study: the study.
        stop: signal that ends the work.
        program: command of babyllm.

    Raises:
        UserError: a command failed, or those that have made a directory were others.
        Stopped: a stop signal arrived.
    """
    for name in sorted(study.before, key=lambda name: name != BASE):  # what all arms share comes first
        commands = study.before[name]
        made = made_directory(study, name)
        note = made.with_name(f"{made.name}.json")
        done = _noted(note)
        if done != list(commands[: len(done)]):
            raise UserError(
                f"{made}: was made by other commands; delete it and {note.name}, choose another OUT, or undo the "
                f"change in 'before.{name}'"
            )
        for number, text in enumerate(commands[len(done) :], len(done) + 1):
            made.mkdir(parents=True, exist_ok=True)
            print(f"before {name}: {text}", flush=True)
            words = [with_directories(study, name, word) for word in _words(text)]
            _run_command(words, text, made.with_name(f"{made.name}.log"), stop, program)
            write_json(note, {"commands": list(commands[:number])})


def _noted(note: Path) -> list[str]:
    try:
        return list(json.loads(note.read_text(encoding="utf-8"))["commands"])
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _words(command: str) -> list[str]:
    try:
        return shlex.split(command)
    except ValueError as error:
        raise UserError(f"{command}: is not a command ({error})") from None


def _run_command(words: Sequence[str], text: str, log: Path, stop: StopSignal, program: Sequence[str]) -> None:
    try:
        process = start_child([*program, *words[1:]] if words[0] == "babyllm" else words, log)
    except OSError as error:
        raise UserError(f"{words[0]}: cannot be started ({error.strerror})") from None
    try:
        has_asked = False
        while process.poll() is None:
            time.sleep(_LOOK_S)
            if stop.is_set and not has_asked:
                ask_to_stop(process)
                has_asked = True
    finally:
        end_child(process)
    if stop.is_set:
        raise Stopped
    if process.returncode:
        raise UserError(f"{text}: failed: {last_words(log, process.returncode)}; its output is in {log}")


def run_all(
    study: Study,
    runs: Sequence[PlannedRun],
    stop: StopSignal,
    *,
    jobs: int = 1,
    keep_going: bool = False,
    program: Sequence[str] = OWN_PROGRAM,
) -> dict[PlannedRun, str]:
    """Train the runs that are not finished, and return why some have failed.

    Args:
        study: the study.
        runs: all runs, in the order in which they start.
        stop: signal that ends the work.
        jobs: largest number of runs at once.
        keep_going: whether the other runs go on after one has failed.
        program: command of babyllm.

    Returns:
        The reason of each run that has failed; empty without `keep_going`.

    Raises:
        UserError: a run failed, or has begun with another configuration, or has not the results of the study.
        Stopped: a stop signal arrived.
    """
    return _Queue(study, runs, stop, jobs, keep_going, program).work()


class _Queue:
    """The runs of a study in progress."""

    def __init__(
        self,
        study: Study,
        runs: Sequence[PlannedRun],
        stop: StopSignal,
        jobs: int,
        keep_going: bool,
        program: Sequence[str],
    ) -> None:
        self._study, self._stop, self._jobs, self._program = study, stop, jobs, program
        self._keep_going = keep_going
        self._pending = deque(run for run in runs if not is_finished(run))
        self._running: list[_Child] = []
        self._reasons: dict[PlannedRun, str] = {}
        self._ended = len(runs) - len(self._pending)
        self._progress = _Progress(runs)

    def work(self) -> dict[PlannedRun, str]:
        """Start runs and wait for them, until all have ended."""
        if self._ended:
            total = self._ended + len(self._pending)
            self._progress.line.message(f"{self._ended} of {total} runs are finished already")
        error: UserError | None = None
        try:
            while self._running or (self._pending and not error and not self._stop.is_set):
                while self._pending and len(self._running) < self._jobs and not error and not self._stop.is_set:
                    self._start(self._pending.popleft())
                time.sleep(_LOOK_S)
                for child in [child for child in self._running if child.process.poll() is not None]:
                    self._running.remove(child)
                    try:
                        self._end(child)
                    except UserError as found:
                        error = error or found
                if error or self._stop.is_set:
                    self._ask_all_to_stop()
                self._progress.show([child.run for child in self._running])
        finally:
            for child in self._running:
                end_child(child.process)
            self._progress.line.end()
        if error:
            raise error
        if self._stop.is_set:
            raise Stopped
        return self._reasons

    def _start(self, run: PlannedRun) -> None:
        begin(run)
        command = [*self._program, self._study.stage, f"--{CONFIG}={run.config_file}"]
        self._running.append(_Child(run, start_child(command, run.log)))
        self._progress.line.message(f"{run.label}: started, its output is in {run.log}")

    def _ask_all_to_stop(self) -> None:
        for child in self._running:
            if not child.is_asked_to_stop:
                child.is_asked_to_stop = True
                ask_to_stop(child.process)

    def _end(self, child: _Child) -> None:
        """Note how a run has ended; one that was asked to stop goes on at the next start."""
        run, status = child.run, child.process.returncode
        if self._stop.is_set or child.is_asked_to_stop:
            return
        reason = last_words(run.log, status) if status else ""
        if not status and not note_end(run):
            reason = f"was stopped before its step {run.steps}; the same command goes on from there"
        if reason and not self._keep_going:
            raise UserError(f"{run.label}: failed: {reason}; its output is in {run.log}")
        if reason:
            self._reasons[run] = reason
            self._progress.line.message(f"{run.label}: failed: {reason}; its output is in {run.log}")
            return
        result = run_result(run.directory, self._study.results)
        self._progress.finished.add(run.directory)
        shown = ", ".join(f"{name} {'not finite' if v is None else f'{v:.4f}'}" for name, v in result.values.items())
        took = format_duration(time.monotonic() - child.began)
        self._progress.line.message(f"{run.label}: {shown}; step {result.steps}, {result.tokens:,} tokens, {took}")


class _Progress:
    """One line for all runs: steps where every run has a known number of them, else runs."""

    def __init__(self, runs: Sequence[PlannedRun]) -> None:
        self.finished = {run.directory for run in runs if is_finished(run)}
        self._runs = runs
        self._is_in_steps = all(run.steps for run in runs)
        self._total = sum(self._weight(run) for run in runs)
        self.line = ProgressLine("step" if self._is_in_steps else "run", self._total, self._done({}))
        self._next_s = 0.0

    def _weight(self, run: PlannedRun) -> int:
        return (run.steps or 0) if self._is_in_steps else 1

    def _done(self, steps: Mapping[Path, int]) -> int:
        finished = sum(self._weight(run) for run in self._runs if run.directory in self.finished)
        return finished + (sum(steps.values()) if self._is_in_steps else 0)

    def show(self, running: Sequence[PlannedRun]) -> None:
        """Show how far the runs in progress are, once a second."""
        now = time.monotonic()
        if now < self._next_s or not running:
            return
        self._next_s = now + _SHOW_S
        steps = {run.directory: last_step(run.directory) for run in running}
        # The last step is not the end: the run still evaluates and saves.
        done = min(self._done(steps), self._total - 1)
        self.line.show(done, "; ".join(f"{run.label}: step {steps[run.directory]}" for run in running))
