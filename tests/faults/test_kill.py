"""Runs of train_pretrain.py that are killed, or asked to stop, at random moments."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from training_fixtures import CPU, FLAGS, ONE_THREAD, ROOT, SCRIPT, Worker, tiny_config, tiny_state

import babyllm
from babyllm import run_directory
from babyllm.runtime import start
from babyllm.training import checkpoint
from babyllm.training.recording.records import read_metrics

N_STEPS = 80
TIMEOUT_S = 120.0


def arguments(data: Path, run_dir: Path, *more: str) -> list[str]:
    return [*FLAGS, f"--data.path={data}", f"--run_dir={run_dir}", "--prompts=[]", *more]


def wait_for(condition: Callable[[], bool], has_ended: Callable[[], bool]) -> None:
    """Return once the condition holds, or the process that is to bring it about has ended."""
    deadline = time.monotonic() + TIMEOUT_S
    while not condition() and not has_ended():
        assert time.monotonic() < deadline, "it does not come"
        time.sleep(0.001)


def gone(pid: int) -> Callable[[], bool]:
    """Whether a process of the worker, which waits for it, has ended."""

    def is_gone() -> bool:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        return False

    return is_gone


def n_records(run_dir: Path) -> int:
    return len(read_metrics(run_dir)) if (run_dir / "metrics.jsonl").is_file() else 0


def newest(run_dir: Path) -> int:
    return max(run_directory.step_directories(run_dir), default=0)


def curve(run_dir: Path) -> list[dict[str, float | None]]:
    """The records of a run without what depends on the time."""
    changing = ("time", "tokens_per_s", "mfu", "memory_bytes", "data_wait")
    return [{key: value for key, value in record.items() if key not in changing} for record in read_metrics(run_dir)]


def check_invariants(run_dir: Path, data: Path) -> None:
    """Whatever looks like a step loads, and what `latest` names is there."""
    steps = run_directory.step_directories(run_dir)
    assert sorted(run_dir.glob("step_*")) == sorted(steps.values())
    with start(CPU) as runtime:
        for step, directory in steps.items():
            state = tiny_state(tiny_config(data), runtime)
            checkpoint.load(state, directory)
            assert state.step == step
    if (run_dir / "latest").exists():
        babyllm.load(run_dir)
    if (run_dir / "metrics.jsonl").exists():
        assert [record["step"] for record in read_metrics(run_dir)] == list(range(1, n_records(run_dir) + 1))


@pytest.mark.slow
@pytest.mark.parametrize("n_kills", [6, pytest.param(20, marks=pytest.mark.campaign)])
def test_kills_change_nothing(worker: Worker, data: Path, tmp_path: Path, n_kills: int) -> None:
    """A run killed many times, starting, training or saving, ends like one left alone; no state between is broken."""
    more = (f"--plan.steps={N_STEPS}", "--save_every=2", "--eval_every=10")
    alone, killed = tmp_path / "alone", tmp_path / "killed"
    began = time.monotonic()
    (pid,) = worker.start("script", arguments=arguments(data, alone, *more))
    wait_for(lambda: newest(alone) > 0, gone(pid))
    startup_s = time.monotonic() - began
    assert worker.wait() == [0], worker.output.read_text()
    step_s = (time.monotonic() - began - startup_s) / N_STEPS

    rng = random.Random(0)
    statuses: list[int] = []
    n_while_saving = 0
    for kill in range(n_kills):
        before = newest(killed)
        (pid,) = worker.start("script", arguments=arguments(data, killed, *more))
        moment_s = rng.uniform(0, 1.5 * startup_s)
        if kill % 3:  # training, and every third time saving, for otherwise few kills would come that far
            wait_for(lambda before=before: newest(killed) > before, gone(pid))  # type: ignore[misc]
            moment_s = rng.uniform(0, step_s)
        if kill % 3 == 2:
            wait_for((killed / ".saving").exists, gone(pid))
            moment_s /= 8
        time.sleep(moment_s)
        if not gone(pid)():
            os.kill(pid, signal.SIGKILL)
        statuses += worker.wait()
        n_while_saving += (killed / ".saving").exists()
        check_invariants(killed, data)
    assert statuses == [-signal.SIGKILL] * n_kills, worker.output.read_text()
    assert n_while_saving > 0 and 0 < newest(killed) < N_STEPS

    worker.run("script", arguments=arguments(data, killed, *more))
    check_invariants(killed, data)
    last = f"step_{N_STEPS:08d}"
    names = sorted(path.name for path in (alone / last).iterdir())
    assert names == sorted(path.name for path in (killed / last).iterdir())
    assert [n for n in names if (alone / last / n).read_bytes() != (killed / last / n).read_bytes()] == []
    assert curve(killed) == curve(alone)
    assert len(curve(alone)) == N_STEPS
    assert sorted(path.name for path in killed.iterdir() if path.name.startswith(".")) == [".lock"]


def check_stopped(run_dir: Path) -> int:
    """The step at which a run stopped, after a look at what it left."""
    last = newest(run_dir)
    assert (run_dir / "latest").read_text() == f"step_{last:08d}\n"
    assert [record["step"] for record in read_metrics(run_dir)] == list(range(1, last + 1))
    return last


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_the_same_command_goes_on(
    worker: Worker, data: Path, tmp_path: Path, signum: signal.Signals
) -> None:
    """SIGTERM or Ctrl-C: the current step is finished and saved, the exit status is 0, and a second start goes on."""
    run_dir = tmp_path / "run"
    command = arguments(data, run_dir, "--plan.steps=5000", "--save_every=0", "--eval_every=0")
    last = 0
    for _ in range(2):
        (pid,) = worker.start("script", arguments=command)
        wait_for(lambda last=last: n_records(run_dir) >= last + 3, gone(pid))  # type: ignore[misc]
        os.kill(pid, signum)
        n_finished = n_records(run_dir)
        assert worker.wait() == [0], worker.output.read_text()
        begins = f"resuming from {run_dir}/step_{last:08d}" if last else "from scratch"
        last = check_stopped(run_dir)
        assert n_finished <= last <= n_finished + 2  # one step may have been finished and not yet recorded
        output = worker.output.read_text()
        assert begins in output and f"stopped at step {last} of 5000" in output
        assert "stop signal; the same command goes on from here" in output


@pytest.mark.slow
def test_torchrun_passes_the_signals_on(worker: Worker, data: Path, tmp_path: Path) -> None:
    """SIGTERM to torchrun, or Ctrl-C in its terminal, ends both ranks within their step; two ranks go on from there.

    The ranks are those of the script, or of the command.
    """
    more = ("--plan.steps=5000", "--save_every=0", "--eval_every=0")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    program = {signal.SIGTERM: [str(SCRIPT)], signal.SIGINT: ["-m", "babyllm", "pretrain"]}
    environment = {**os.environ, **ONE_THREAD, "PYTHONPATH": str(ROOT)}
    runs: dict[signal.Signals, Any] = {}
    for signum in (signal.SIGTERM, signal.SIGINT):
        run_dir = tmp_path / signum.name
        with open(tmp_path / f"{signum.name}.txt", "w", encoding="utf-8") as output:
            runs[signum] = (
                run_dir,
                subprocess.Popen(
                    [*torchrun, *program[signum], *arguments(data, run_dir, *more)],
                    env=environment,
                    cwd=tmp_path,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                ),
            )
    for run_dir, process in runs.values():
        wait_for(
            lambda run_dir=run_dir: n_records(run_dir) >= 3,  # type: ignore[misc]
            lambda process=process: process.poll() is not None,  # type: ignore[misc]
        )
    runs[signal.SIGTERM][1].send_signal(signal.SIGTERM)
    os.killpg(runs[signal.SIGINT][1].pid, signal.SIGINT)
    for signum, (run_dir, process) in runs.items():
        process.wait(TIMEOUT_S)
        output_text = (tmp_path / f"{signum.name}.txt").read_text()
        assert f"stopped at step {newest(run_dir)} of 5000" in output_text, output_text
        assert "on 2 x cpu" in output_text
        assert 3 <= check_stopped(run_dir) < 5000
    run_dir, _ = runs[signal.SIGTERM]
    last = newest(run_dir)
    pids = worker.start("script", ranks=2, arguments=arguments(data, run_dir, *more))
    wait_for(lambda: n_records(run_dir) >= last + 2, gone(pids[0]))
    os.kill(pids[1], signal.SIGTERM)  # one rank's signal stops both
    assert worker.wait() == [0, 0], worker.output.read_text()
    assert newest(run_dir) > last
    assert json.loads((run_dir / "environment.json").read_text())["world_size"] == 2
