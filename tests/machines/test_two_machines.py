"""Runs on two machines, of which one is killed, asked to stop and started again: the other goes on."""

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from test_elastic import arguments, losses, newest, require_equal
from training_fixtures import SCRIPT, Worker
from two_machines import Machine, two_machines, wait_for

N_STEPS = 20_000  # more than any test takes


class Drill:
    """A run on two machines.

    Args:
        machines: the machines; the first one keeps torchrun's store.
        nodes: numbers of machines with which the run goes on.
        command: script and its arguments.
        run_dir: directory of the run.
    """

    def __init__(self, machines: tuple[Machine, Machine], nodes: str, command: list[str], run_dir: Path) -> None:
        self.first, self.second = machines
        self._nodes, self._command, self.run_dir = nodes, command, run_dir

    def start(self, machine: Machine) -> None:
        """Switch a machine on."""
        machine.start(self._command, first=self.first.address, nodes=self._nodes)

    def output(self) -> str:
        """What both machines have printed."""
        return "".join(m.output.read_text() for m in (self.first, self.second) if m.output.exists())

    def comes_to(self, n_ranks: int, change: Callable[[], object]) -> None:
        """Return when, after a change, the run has been resumed with this number of ranks and has saved a step."""
        words = f"steps on {n_ranks} x cpu"
        before = self.output().count(words)
        change()
        wait_for(lambda: self.output().count(words) > before, f"a run on {n_ranks} ranks, {self.output()[-3000:]}")
        step = newest(self.run_dir)
        wait_for(lambda: newest(self.run_dir) > step, "a step")


@pytest.mark.slow
@pytest.mark.parametrize("n_kills", [1, pytest.param(10, marks=pytest.mark.campaign)])
def test_a_run_goes_on_without_a_machine_and_with_it_again(
    worker: Worker, data: Path, tmp_path: Path, n_kills: int
) -> None:
    """With `--nnodes=1:2` a run goes on alone when a machine dies or leaves, and on both as soon as it is back.

    Rows are counted over all ranks, so the losses are those of one process within rounding.
    """
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    with two_machines(tmp_path) as machines:
        command = [*arguments(data, shared, N_STEPS), "--model.dropout=0"]
        drill = Drill(machines, "1:2", [str(SCRIPT), *command], shared)
        first, second = machines
        drill.start(first)
        drill.comes_to(2, lambda: drill.start(second))
        for _ in range(n_kills):
            drill.comes_to(1, second.kill)
            if first.address != second.address:
                assert (
                    f"rank 1 ({second.address}, " in drill.output() or f"rank 0 ({second.address}, " in drill.output()
                )
            drill.comes_to(2, lambda: drill.start(second))
        drill.comes_to(1, second.stop)
        assert "another machine was asked to stop; torchrun goes on from this step without it" in drill.output()
        first.stop()
        first.wait()
    n_done = newest(shared)
    command = [*arguments(data, alone, N_STEPS), "--model.dropout=0"]
    (pid,) = worker.start("script", arguments=command)
    wait_for(lambda: newest(alone) >= n_done, "as many steps")
    os.kill(pid, signal.SIGTERM)
    assert worker.wait() == [0]
    assert losses(shared)[:n_done] == pytest.approx(losses(alone)[:n_done], abs=1e-5)
    assert len(losses(shared)) == n_done


@pytest.mark.campaign
def test_a_machine_that_is_killed_and_comes_back_changes_no_bit(worker: Worker, data: Path, tmp_path: Path) -> None:
    """With `--nnodes=2` the run waits for a machine that was killed, and ends with the weights of a run left alone."""
    alone, shared, n_kills, n_steps = tmp_path / "alone", tmp_path / "shared", 30, 30 * 15
    worker.run("script", ranks=2, arguments=arguments(data, alone, n_steps))
    rng = random.Random(0)
    with two_machines(tmp_path) as machines:
        drill = Drill(machines, "2", [str(SCRIPT), *arguments(data, shared, n_steps)], shared)
        drill.start(machines[0])
        drill.start(machines[1])
        for kill in range(n_kills):
            before = newest(shared)
            if kill % 3:
                wait_for(lambda before=before: newest(shared) > before, "a step")  # type: ignore[misc]
            time.sleep(rng.uniform(0, 0.3 if kill % 3 else 8.0))
            machines[1].kill()
            drill.start(machines[1])
        assert [machine.wait() for machine in machines] == [0, 0], drill.output()
    require_equal(alone, shared, n_steps)
