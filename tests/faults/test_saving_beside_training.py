"""Steps that are written while training goes on: what they hold, who waits for them, and what their errors say."""

import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from training_fixtures import FLAGS, Worker, tiny_config, tiny_state

from babyllm import run_directory
from babyllm.data.token_data import open_pretraining_data
from babyllm.errors import UserError
from babyllm.objectives.lm import language_model
from babyllm.optim.config import OptimConfig
from babyllm.runtime import Runtime
from babyllm.tokenizer import Tokenizer
from babyllm.training import checkpoint
from babyllm.training.loop import train
from babyllm.training.run import open_run
from babyllm.training.stages.pretraining import new_state
from babyllm.training.stages.pretraining_config import PretrainConfig
from babyllm.training.state import Every, TrainState
from tests.support.disk_fixtures import files_up_to


@pytest.fixture
def config(data: Path) -> PretrainConfig:
    """A run with dropout and a moving average of its weights."""
    return replace(tiny_config(data, dropout=0.1), optim=OptimConfig(average=0.9))


def at_step(config: PretrainConfig, runtime: Runtime, step: int) -> TrainState:
    state = tiny_state(config, runtime)
    train(state, language_model, replace(config.plan, steps=step))
    return state


def waiting_for(event: threading.Event) -> Callable[[], None]:
    """What a writer does first to begin only then."""

    def wait() -> None:
        event.wait()

    return wait


def files(run_dir: Path) -> dict[str, bytes]:
    return {str(path.relative_to(run_dir)): path.read_bytes() for path in run_dir.rglob("*") if path.is_file()}


def test_later_steps_change_nothing_of_a_step(
    config: PretrainConfig, data: Path, runtime: Runtime, tmp_path: Path
) -> None:
    """A step that is written after three further steps has the bytes of one that training waited for."""
    tokenizer, state = Tokenizer.load(data), at_step(config, runtime, 2)
    checkpoint.save(state, tmp_path / "alone", tokenizer, 1, "{{ messages }}", [3])
    saver, has_trained = checkpoint.Saver(tmp_path / "beside", tokenizer, 1, "{{ messages }}", [3]), threading.Event()
    saver.save(state, waiting_for(has_trained))
    train(state, language_model, replace(config.plan, steps=5))
    saver.join(block=False)
    assert not (tmp_path / "beside").exists()
    has_trained.set()
    saver.join()
    assert files(tmp_path / "beside") == files(tmp_path / "alone")


def test_without_memory_for_a_copy_training_waits(
    config: PretrainConfig, runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The step is complete when the save returns, and has the same bytes."""
    state = at_step(config, runtime, 2)
    checkpoint.save(state, tmp_path / "beside", None, 1)
    monkeypatch.setattr("babyllm.training.checkpoint.snapshot.available_memory", lambda: 1000)
    checkpoint.Saver(tmp_path / "waited", None, 1).save(state)
    assert files(tmp_path / "waited") == files(tmp_path / "beside")


WAYS: dict[str, Callable[[checkpoint.Saver, TrainState], None]] = {
    "the next save": lambda saver, state: saver.save(state),
    "an update": lambda saver, state: saver.update(state),
    "the end": lambda saver, state: saver.join(),
}


@pytest.mark.parametrize("way", WAYS)
def test_one_step_is_written_at_a_time(config: PretrainConfig, runtime: Runtime, tmp_path: Path, way: str) -> None:
    """The next save, an update and the end of the run wait for the step in the writing."""
    state, saver, begins = at_step(config, runtime, 2), checkpoint.Saver(tmp_path, None, 9), threading.Event()
    saver.save(state, waiting_for(begins))
    begin = threading.Timer(0.2, begins.set)
    begin.start()
    WAYS[way](saver, state)
    assert 2 in run_directory.step_directories(tmp_path)
    begin.join()
    saver.join()


@pytest.mark.parametrize("way", WAYS)
def test_a_failed_write_is_one_line_at_the_next_point(
    config: PretrainConfig, runtime: Runtime, tmp_path: Path, way: str
) -> None:
    """Whoever waits for it receives the error, once; the older step stays, and nothing partial is left."""
    state, saver = at_step(config, runtime, 2), checkpoint.Saver(tmp_path, None, 9)
    checkpoint.save(state, tmp_path, None, 9)
    before = files(tmp_path)
    state.step = 3
    with files_up_to(20_000), pytest.raises(UserError, match=r"step 3 was not saved \(.*[Ff]ile too large") as error:
        saver.save(state)
        WAYS[way](saver, state)
    assert "\n" not in str(error.value) and files(tmp_path) == before
    saver.join()


def saving_run(config: PretrainConfig, runtime: Runtime, fails_at: int = -1, stops_at: int = -1) -> TrainState:
    """A run that logs each step and saves each second one, and that an error of its own or a signal may end."""
    data = open_pretraining_data(config.data)
    state, plan = new_state(config, data, runtime)

    def look(state: TrainState) -> None:
        if state.step == fails_at:
            raise ZeroDivisionError
        if state.step == stops_at:
            signal.raise_signal(signal.SIGTERM)

    with open_run(config, state, None, plan) as run:
        saving = run.saving(2)._replace(at_end=False)
        train(state, language_model, plan, [run.logging(1, 16), saving, Every(1, look)])
    return state


@pytest.mark.parametrize("steps", [3, 100_000], ids=["at its end", "at a logged step"])
def test_a_run_whose_step_cannot_be_written_ends(data: Path, runtime: Runtime, tmp_path: Path, steps: int) -> None:
    """It goes on to the next logged step, or to its end, at most; one line says what to do."""
    config = replace(tiny_config(data, steps=steps), run_dir=str(tmp_path), save_every=2)
    (tmp_path / ".saving").write_text("in the way", encoding="utf-8")
    told = r"step \d+ was not saved \(.*\.saving: File exists\); fix that and start the same command again"
    with pytest.raises(UserError, match=told) as error:
        saving_run(config, runtime)
    assert "\n" not in str(error.value) and not run_directory.step_directories(tmp_path)


@pytest.mark.parametrize("is_writable", [True, False])
def test_an_error_of_the_run_waits_for_the_step(
    data: Path, runtime: Runtime, tmp_path: Path, is_writable: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """The step in the writing is complete when the error is raised; if it cannot be, that is printed before."""
    config = replace(tiny_config(data), run_dir=str(tmp_path))
    if not is_writable:
        (tmp_path / ".saving").write_text("in the way", encoding="utf-8")
    with pytest.raises(ZeroDivisionError):
        saving_run(config, runtime, fails_at=2)
    assert list(run_directory.step_directories(tmp_path)) == [2] * is_writable
    assert ("step 2 was not saved" in capsys.readouterr().out) != is_writable


def test_a_stop_signal_waits_for_its_step(data: Path, runtime: Runtime, tmp_path: Path) -> None:
    """A signal that comes while a step is written leaves that step and the one it stops at."""
    state = saving_run(replace(tiny_config(data), run_dir=str(tmp_path), keep=9), runtime, stops_at=2)
    assert list(run_directory.step_directories(tmp_path)) == sorted({2, state.step})
    assert (tmp_path / "latest").read_text(encoding="utf-8") == f"step_{state.step:08d}\n"


@pytest.mark.parametrize("save_every", [0, pytest.param(4, marks=pytest.mark.slow)])
def test_ranks_end_together_if_a_step_cannot_be_written(
    worker: Worker, data: Path, tmp_path: Path, save_every: int
) -> None:
    """Both exit with status 1, and only rank 0 says why, whether the step was the last or not."""
    (tmp_path / ".saving").write_text("in the way", encoding="utf-8")
    flags = [*FLAGS, f"--data.path={data}", f"--run_dir={tmp_path}", f"--save_every={save_every}", "--eval_every=0"]
    worker.start("script", ranks=2, arguments=flags)
    assert worker.wait() == [1, 1]
    output = worker.output.read_text()
    assert output.count("was not saved") == 1 and "Traceback" not in output, output
