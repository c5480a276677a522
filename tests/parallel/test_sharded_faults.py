"""Divided runs whose processes are killed or stopped amid a save, and a disk that is full."""

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from training_fixtures import FLAGS, Worker

from babyllm.run_directory import step_directories

TIMEOUT_S = 120.0
TARGETS = ((1,), (0, 1), (0,))  # ranks that are killed, in turn


def arguments(data: Path, run_dir: Path, n_steps: int) -> list[str]:
    more = (f"--plan.steps={n_steps}", "--save_every=2", "--eval_every=10", "--parallel.shard=zero3")
    return [*FLAGS, f"--data.path={data}", f"--run_dir={run_dir}", *more]


def newest(run_dir: Path) -> int:
    return max(step_directories(run_dir), default=0)


def wait_for(condition: Callable[[], bool], pid: int) -> None:
    """Return once the condition holds, or the process has ended."""
    deadline = time.monotonic() + TIMEOUT_S
    while not condition() and Path(f"/proc/{pid}").exists():
        assert time.monotonic() < deadline, "it does not come"
        time.sleep(0.001)


@pytest.mark.slow
@pytest.mark.parametrize("n_kills", [3, pytest.param(30, marks=pytest.mark.campaign)])
def test_kills_amid_saves_change_nothing(worker: Worker, data: Path, tmp_path: Path, n_kills: int) -> None:
    """A rank, or all of them, is killed amid a save: each start goes on from a whole step and the end is the same.

    A save is written by threads of all ranks while they train on. Each fourth kill ends all ranks at any moment.
    """
    worker.load("tests.parallel.sharded_runs")
    alone, killed, n_steps, n_torn = tmp_path / "alone", tmp_path / "killed", 8 * n_kills + 16, 0
    worker.run("script", ranks=2, arguments=arguments(data, alone, n_steps))
    rng = random.Random(0)
    for kill in range(n_kills):
        before = newest(killed)
        pids = worker.start("script", ranks=2, arguments=arguments(data, killed, n_steps))
        targets = TARGETS[kill % len(TARGETS)]
        if kill % 4 == 3:
            time.sleep(rng.uniform(0, 1))
            targets = (0, 1)  # while they start, one alone would wait for the other for runtime.timeout_s
        else:
            wait_for(lambda before=before: newest(killed) > before, pids[0])  # type: ignore[misc]
            wait_for((killed / ".saving").exists, pids[0])
            time.sleep(rng.uniform(0, 0.02))
        for rank in targets:
            os.kill(pids[rank], signal.SIGKILL)
        assert all(worker.wait()), worker.output.read_text()
        n_torn += (killed / ".saving").exists()
    assert n_torn and 0 < newest(killed) < n_steps - 4
    pids = worker.start("script", ranks=2, arguments=arguments(data, killed, n_steps))
    before = newest(killed)
    wait_for(lambda: newest(killed) > before and (killed / ".saving").exists(), pids[0])
    os.kill(pids[1], signal.SIGTERM)  # of one rank, amid a save: all stop, after saving the step
    assert worker.wait() == [0, 0], worker.output.read_text()
    worker.run("script", ranks=2, arguments=arguments(data, killed, n_steps))
    last = f"step_{n_steps:08d}"
    names = sorted(path.name for path in (alone / last).iterdir())
    assert "optimizer-00002-of-00002.safetensors" in names
    assert names == sorted(path.name for path in (killed / last).iterdir())
    assert [n for n in names if (alone / last / n).read_bytes() != (killed / last / n).read_bytes()] == []
    assert not (killed / ".saving").exists()


def test_a_full_disk_on_one_rank_is_an_error_of_the_run(worker: Worker, data: Path, tmp_path: Path) -> None:
    """Rank 0 reports in one line what another rank could not write; the step before stays, and nothing partial."""
    worker.load("tests.parallel.sharded_runs")
    worker.run("full_disk", ranks=2, data=str(data), out=str(tmp_path))
    error, of_other = ((tmp_path / f"{rank}.txt").read_text() for rank in range(2))
    assert "step 1 was not saved" in error and "\n" not in error and not of_other
    assert list(step_directories(tmp_path / "run")) == [0] and not (tmp_path / "run" / ".saving").exists()
