"""Saving before evaluating: an evaluation that is killed, stopped or fails loses no training."""

import json
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from training_fixtures import Kill, Killer, tiny_config, tiny_state, weights

import babyllm
from babyllm import run_directory
from babyllm.data.token_data import open_pretraining_data
from babyllm.errors import UserError
from babyllm.objectives.lm import language_model
from babyllm.runtime import Runtime
from babyllm.training.loop import train
from babyllm.training.recording.records import read_metrics
from babyllm.training.run import Measure, open_run
from babyllm.training.stages.pretraining import new_state
from babyllm.training.stages.pretraining_config import PretrainConfig
from babyllm.training.state import Every, TrainState

LOSSES = {2: 3.0, 4: 2.0, 6: 2.5, 8: 2.6}


def made_up(state: TrainState) -> dict[str, float]:
    """Held-out losses; step 4 has the lowest."""
    return {"all/loss": LOSSES[state.step]}


def a_run(data: Path, run_dir: Path, **changes: Any) -> PretrainConfig:
    """Eight steps, evaluated every second and saved every fourth."""
    changes = {"log_every": 1, "eval_every": 2, "save_every": 4, "keep": 1, **changes}
    return replace(tiny_config(data, steps=8, dropout=0.1), run_dir=str(run_dir), **changes)


def ran(
    config: PretrainConfig,
    runtime: Runtime,
    measure: Measure = made_up,
    around: Callable[[TrainState, Callable[[], object]], object] = lambda state, work: work(),
) -> TrainState:
    """The run of `config`, begun or resumed."""
    runtime.forget_stop()
    data = open_pretraining_data(config.data)
    state, plan = new_state(config, data, runtime)
    with open_run(config, state, data.tokenizer, plan) as run:
        evaluation = run.evaluation(config.eval_every, measure, lambda state: [("ab", f"text of step {state.step}")])
        framed = evaluation._replace(run=lambda state: around(state, lambda: evaluation.run(state)))
        every = [run.logging(config.log_every, 16), run.saving(config.save_every), framed]
        train(state, language_model, plan, every, run.watch)
    return state


def resume(run_dir: Path, step: int) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((run_dir / f"step_{step:08d}" / "resume.json").read_text())
    return read


def left(run_dir: Path) -> dict[str, Any]:
    """The files of a run, without values that depend on the time."""
    changing = ("time", "tokens_per_s", "mfu", "memory_bytes", "data_wait")
    steps = {str(p.relative_to(run_dir)): p.read_bytes() for p in run_dir.glob("*step_*/*")}
    curve = [{k: v for k, v in record.items() if k not in changing} for record in read_metrics(run_dir)]
    return {**steps, "curve": curve, "samples": (run_dir / "samples.jsonl").read_text()}


def test_a_step_is_saved_before_it_is_evaluated(data: Path, runtime: Runtime, tmp_path: Path) -> None:
    """It is written beside the evaluation, as pending; then it has the result, and the weights stay as written."""
    run_dir, seen = tmp_path / "run", dict[int, Any]()

    def look(state: TrainState) -> dict[str, float]:
        if state.step in (4, 8):
            weights_file = run_dir / f"step_{state.step:08d}" / "model.safetensors"
            deadline = time.monotonic() + 60
            while not weights_file.exists() and time.monotonic() < deadline:
                time.sleep(0.001)
            seen[state.step] = resume(run_dir, state.step)["pending"], weights_file.stat().st_ino
        return made_up(state)

    ran(a_run(data, run_dir), runtime, look)
    for step, best, bad in ((4, [2.0, 4], 0), (8, [2.0, 4], 2)):
        inode = (run_dir / f"step_{step:08d}" / "model.safetensors").stat().st_ino
        assert seen[step] == (True, inode)
        after = resume(run_dir, step)
        assert (after["pending"], after["best"], after["bad_evaluations"]) == (False, best, bad)
    assert sorted(run_directory.step_directories(run_dir)) == [4, 8]


@pytest.mark.parametrize("stride", [31, pytest.param(9, marks=pytest.mark.campaign)])
@pytest.mark.parametrize("at", [4, 8])
def test_a_kill_around_an_evaluation_changes_nothing(
    killer: Killer, data: Path, runtime: Runtime, tmp_path: Path, at: int, stride: int
) -> None:
    """A run killed while it evaluates its best or its last step, then resumed, ends with the same files."""
    ran(a_run(data, tmp_path / "straight"), runtime)
    expected, k, is_killed = left(tmp_path / "straight"), 0, True
    while is_killed:
        config = a_run(data, tmp_path / f"killed{k}")

        def around(state: TrainState, work: Callable[[], object], k: int = k) -> object:
            return killer.killing(k, work) if state.step == at else work()

        try:
            ran(config, runtime, around=around)
            is_killed = False
        except Kill:
            ran(config, runtime)
        assert left(Path(config.run_dir)) == expected
        k += stride
    assert k > stride


@pytest.mark.parametrize("at", [4, 6])
def test_a_stop_during_an_evaluation_changes_nothing(data: Path, runtime: Runtime, tmp_path: Path, at: int) -> None:
    """The step is saved as pending, and the resumed run evaluates it first."""
    ran(a_run(data, tmp_path / "straight", keep=9), runtime)

    def stopped(state: TrainState) -> dict[str, float]:
        if state.step == at:
            signal.raise_signal(signal.SIGTERM)
        return made_up(state)

    config = a_run(data, tmp_path / "stopped", keep=9)
    assert (state := ran(config, runtime, stopped)).step == at and state.stop_reason == "stop signal"
    assert resume(tmp_path / "stopped", at)["pending"]
    ran(config, runtime)
    found, expected = left(tmp_path / "stopped"), left(tmp_path / "straight")
    assert {name: found[name] for name in expected} == expected
    assert not resume(tmp_path / "stopped", 8)["pending"]


class Broken(Exception):
    """An error of an evaluation."""


def broken(state: TrainState) -> dict[str, float]:
    raise Broken


@pytest.mark.parametrize(("save_every", "eval_every", "at"), [(0, 0, 8), (0, 6, 6), (4, 6, 6)])
def test_an_evaluation_that_always_fails_costs_nothing(
    data: Path, runtime: Runtime, tmp_path: Path, save_every: int, eval_every: int, at: int
) -> None:
    """The trained step is saved, whether or not a save was due, and without evaluations the run resumes from it."""
    config = a_run(data, tmp_path / "run", save_every=save_every, eval_every=eval_every)
    for _ in range(2):
        with pytest.raises(Broken):
            ran(config, runtime, broken)
        assert run_directory.latest(tmp_path / "run") == tmp_path / "run" / f"step_{at:08d}"
        assert resume(tmp_path / "run", at)["pending"]
    assert ran(replace(config, eval_every=0), runtime).step == 8
    alone = ran(a_run(data, tmp_path / "alone"), runtime)
    model = babyllm.load(tmp_path / "run")[0]
    assert torch.equal(torch.cat([p.detach().flatten() for p in model.parameters()]), weights(alone))


def test_an_ended_run_means_its_best_step(data: Path, runtime: Runtime, tmp_path: Path) -> None:
    """After early stopping the run's model is the best step; without early stopping it resumes from the newest."""
    run_dir = tmp_path / "run"
    config = a_run(data, run_dir, early_stop=1, save_every=0)
    assert ran(config, runtime).step == 6
    assert (run_dir / "latest").read_text() == "step_00000004\n"
    best = babyllm.load(run_dir / "step_00000004")[0].state_dict()
    assert all(torch.equal(tensor, best[name]) for name, tensor in babyllm.load(run_dir)[0].state_dict().items())
    (run_dir / "latest").write_text("step_00000006\n")  # as if killed before it was written
    assert ran(config, runtime).step == 6 and (run_dir / "latest").read_text() == "step_00000004\n"
    assert ran(replace(config, early_stop=0), runtime).step == 8
    assert (run_dir / "latest").read_text() == "step_00000008\n"


def test_memorising_is_pointed_out(
    data: Path, runtime: Runtime, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A held-out loss above the lowest names that step when it is seen, and the run's end says how to use the step."""
    ran(a_run(data, tmp_path / "run"), runtime)
    printed = capsys.readouterr().out
    assert "step 4: held-out loss: all 2.000\n" in printed
    assert "step 6: held-out loss: all 2.500; lowest at step 4, 0.500 nats below\n" in printed
    assert "the held-out loss was lowest at step 4, which is kept" in printed
    assert f'try it: babyllm generate {tmp_path / "run" / "step_00000004"} "今天"' in printed
    assert (tmp_path / "run" / "latest").read_text() == "step_00000008\n"
    ran(
        a_run(data, tmp_path / "short", eval_every=4, save_every=0), runtime, lambda state: {"all/loss": 9 - state.step}
    )
    assert "lowest" not in capsys.readouterr().out


def test_training_again_goes_on(data: Path, runtime: Runtime) -> None:
    """In a notebook a further call continues after a stop signal, or after anything else that ended the last one."""
    state = tiny_state(config := tiny_config(data), runtime)
    plan = replace(config.plan, steps=6)

    def stop(state: TrainState) -> None:
        if state.step == 2:
            signal.raise_signal(signal.SIGINT)
        if state.step == 4:
            state.stop_reason = "enough"

    every = [Every(1, stop, at_end=False)]
    train(state, language_model, plan, every)
    assert (state.step, state.stop_reason) == (2, "stop signal")
    train(state, language_model, plan, every)
    assert (state.step, state.stop_reason) == (4, "enough")
    train(state, language_model, plan, every)
    assert (state.step, state.stop_reason) == (6, None)


def test_a_closed_run_is_opened_again_to_go_on(data: Path, runtime: Runtime, tmp_path: Path) -> None:
    """Its actions are refused after the body; opened again with the same state it begins as in a new process."""
    config = a_run(data, tmp_path / "run", early_stop=1, save_every=0)
    opened = open_pretraining_data(config.data)
    state, plan = new_state(config, opened, runtime)

    def go_on(early_stop: int, signal_at: int = -1) -> list[Every]:
        with open_run(replace(config, early_stop=early_stop), state, opened.tokenizer, plan) as run:
            every = [run.saving(0), run.evaluation(2, made_up, lambda state: [])]
            stop = Every(1, lambda state: signal.raise_signal(signal.SIGINT) if state.step == signal_at else None)
            train(state, language_model, plan, [*every, stop], run.watch)
        return every

    for item in go_on(early_stop=1):
        with pytest.raises(UserError, match="run: this run was closed after its with block; go on in another open_run"):
            item.run(state)
    assert state.step == 6
    go_on(early_stop=1)
    assert state.step == 6 and "raise --early_stop" in str(state.stop_reason)
    go_on(early_stop=0, signal_at=7)
    assert (state.step, state.stop_reason) == (7, "stop signal")
    go_on(early_stop=0)
    assert (state.step, state.stop_reason) == (8, None)


def test_a_run_past_its_plan_says_so(
    data: Path, runtime: Runtime, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a plan shorter than the steps done there is nothing to do; small models are counted in thousands."""
    config = a_run(data, tmp_path / "run")
    ran(config, runtime)
    assert "34.0 k parameters" in capsys.readouterr().out
    ran(replace(config, plan=replace(config.plan, steps=5)), runtime)
    told = capsys.readouterr().out
    assert "nothing to do: the run is at step 8 already, the plan ends at step 5" in told and "finished" not in told


@pytest.mark.parametrize("cause", ["weights", "records"])
def test_what_cannot_be_saved_after_a_failed_evaluation_does_not_hide_why_it_failed(
    data: Path, runtime: Runtime, tmp_path: Path, cause: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The evaluation's own error ends the run; the reason why saving failed is printed before it."""

    def fail(state: TrainState) -> dict[str, float]:
        if cause == "weights":
            with torch.no_grad():
                next(state.model.parameters()).fill_(float("nan"))
        else:
            (tmp_path / "run" / "metrics.jsonl").unlink()
            (tmp_path / "run" / "metrics.jsonl").mkdir()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        ran(a_run(data, tmp_path / "run"), runtime, fail)
    told = "step 2 was not saved" if cause == "weights" else "metrics.jsonl"
    assert told in capsys.readouterr().out
