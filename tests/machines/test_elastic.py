"""Runs under torchrun whose ranks are killed: torchrun starts them again, and they go on by themselves."""

import os
import random
import signal
import time
from pathlib import Path

import pytest
from training_fixtures import FLAGS, SCRIPT, Worker
from two_machines import end_all, ranks_of, torchrun, wait_for

from babyllm import run_directory
from babyllm.training.recording.records import read_metrics


def arguments(data: Path, run_dir: Path, n_steps: int) -> list[str]:
    more = ["--prompts=[]", "--save_every=5", "--eval_every=0", "--keep=1", "--runtime.timeout_s=20"]
    return [*FLAGS, *more, f"--plan.steps={n_steps}", f"--data.path={data}", f"--run_dir={run_dir}"]


def newest(run_dir: Path) -> int:
    return max(run_directory.step_directories(run_dir), default=0) if run_dir.is_dir() else 0


def losses(run_dir: Path) -> list[float]:
    return [record["loss"] for record in read_metrics(run_dir) if "loss" in record]


def require_equal(one: Path, other: Path, n_steps: int) -> None:
    """The last step and the curve are the same bits."""
    last = f"step_{n_steps:08d}"
    names = sorted(path.name for path in (one / last).iterdir())
    assert names == sorted(path.name for path in (other / last).iterdir())
    assert [name for name in names if (one / last / name).read_bytes() != (other / last / name).read_bytes()] == []
    assert losses(one) == losses(other) and len(losses(one)) == n_steps


@pytest.mark.slow
@pytest.mark.parametrize("n_kills", [2, pytest.param(30, marks=pytest.mark.campaign)])
def test_killed_ranks_are_started_again(worker: Worker, data: Path, tmp_path: Path, n_kills: int) -> None:
    """Under `torchrun --max-restarts` a rank killed at any moment costs no step: the weights are those of a run alone.

    The ranks are killed while they start, while they train and while they save.
    """
    alone, killed, n_steps = tmp_path / "alone", tmp_path / "killed", 12 * n_kills + 30
    worker.run("script", ranks=2, arguments=arguments(data, alone, n_steps))
    output = tmp_path / "torchrun.txt"
    options = ["--standalone", "--nproc-per-node=2", f"--max-restarts={n_kills}"]
    agent = torchrun([*options, str(SCRIPT), *arguments(data, killed, n_steps)], output)
    rng, seen = random.Random(0), set[int]()
    try:
        for kill in range(n_kills):
            before = newest(killed)
            wait_for(lambda seen=seen: len(set(ranks_of(agent.pid)) - seen) == 2, "a start")  # type: ignore[misc]
            if kill % 3:
                wait_for(lambda before=before: newest(killed) > before, "a step")  # type: ignore[misc]
            if kill % 3 == 2:
                wait_for((killed / ".saving").exists, "a save")
            else:
                time.sleep(rng.uniform(0, 0.1 if kill % 3 else 3.0))
            seen = set(ranks_of(agent.pid))
            os.kill(rng.choice(sorted(seen)), signal.SIGKILL)
        wait_for(lambda: agent.poll() is not None, "the end")
    finally:
        end_all(agent)
    assert agent.returncode == 0, output.read_text()
    require_equal(alone, killed, n_steps)
    assert "Traceback" not in output.read_text()
    assert output.read_text().count("parameters, ") > 1, "nothing was killed"
