"""A run directory at every moment of a save: after a kill it holds the complete old step or the new one."""

import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from training_fixtures import Killer, tiny_config, tiny_state, weights

import babyllm
from babyllm.config import dump
from babyllm.data.token_data import open_pretraining_data
from babyllm.errors import UserError
from babyllm.objectives.lm import language_model
from babyllm.run_directory import KeepEvery, latest, meant_step, step_directories, take_back
from babyllm.runtime import Runtime
from babyllm.training import checkpoint
from babyllm.training.loop import train
from babyllm.training.recording.records import read_metrics
from babyllm.training.run import open_run
from babyllm.training.stage import train_stage
from babyllm.training.stages.pretraining import begin, new_state
from babyllm.training.stages.pretraining_config import PretrainConfig
from babyllm.training.state import TrainState
from tests.support.disk_fixtures import files_up_to


@pytest.fixture
def state(data: Path, runtime: Runtime) -> TrainState:
    """A state at step 2."""
    config = tiny_config(data)
    state = tiny_state(config, runtime)
    train(state, language_model, replace(config.plan, steps=2))
    return state


@pytest.mark.parametrize(
    ("keep_every", "kept"), [(0, [7, 8]), (3, [3, 6, 7, 8]), ("log", [1, 2, 4, 7, 8])], ids=["none", "3", "log"]
)
def test_steps_of_keep_every_stay(state: TrainState, tmp_path: Path, keep_every: KeepEvery, kept: list[int]) -> None:
    """Multiples stay, or steps apart by a factor of two, in addition to the newest."""
    saver = checkpoint.Saver(tmp_path, None, keep=2, keep_every=keep_every)
    for step in range(1, 9):
        state.step = step
        saver.save(state)
    saver.join()
    assert list(step_directories(tmp_path)) == kept


def test_checkpoints_by_epochs(data: Path, tmp_path: Path) -> None:
    """A number with a point counts epochs, which a run of a given number of steps does not have."""
    config = replace(tiny_config(data), run_dir=str(tmp_path / "run"), eval_every=0, save_every=0.5, keep=9, prompts=[])
    with pytest.raises(UserError, match=r"--save_every=0\.5: counts epochs, but plan\.steps is given"):
        train_stage(config, begin)
    train_stage(replace(config, plan=replace(config.plan, steps=None, epochs=1.0)), begin)
    steps = list(step_directories(tmp_path / "run"))
    assert steps[0] == round(steps[-1] / 2) and len(steps) <= 3


def test_a_step_survives_a_kill_at_any_moment_of_its_replacement(
    killer: Killer, state: TrainState, data: Path, runtime: Runtime, tmp_path: Path
) -> None:
    """After a kill at any access to the file system, and another during the repair, the old or new step exists."""
    loaded = tiny_state(tiny_config(data), runtime)
    found, k = [], 0
    old = weights(state).clone()
    while True:
        run_dir = tmp_path / str(k)
        with torch.no_grad():
            torch.nn.utils.vector_to_parameters(old, state.model.parameters())
        state.tokens = 1
        checkpoint.save(state, run_dir, None, keep=1)
        with torch.no_grad():
            torch.nn.utils.vector_to_parameters(old + 1, state.model.parameters())
        state.tokens = 2
        is_saved = killer.survives(k, lambda run_dir=run_dir: checkpoint.save(state, run_dir, None, keep=1))  # type: ignore[misc]
        j = 0
        while not killer.survives(j, lambda run_dir=run_dir: take_back(run_dir)):  # type: ignore[misc]
            j += 1
        assert sorted(path.name for path in run_dir.iterdir()) == ["latest", "step_00000002"]
        checkpoint.load(loaded, run_dir / "step_00000002")
        assert torch.equal(weights(loaded), old + (loaded.tokens == 2))
        found.append(loaded.tokens)
        if is_saved:
            break
        k += 1
    assert k > 20 and found == sorted(found) and set(found) == {1, 2}


def begun(config: PretrainConfig, runtime: Runtime) -> int:
    """The step at which the run of `config` begins."""
    with opened(config, runtime) as state:
        return state.step


@contextmanager
def opened(config: PretrainConfig, runtime: Runtime) -> Iterator[TrainState]:
    data = open_pretraining_data(config.data)
    state, plan = new_state(config, data, runtime)
    with open_run(config, state, data.tokenizer, plan):
        yield state


@pytest.fixture
def config(data: Path, runtime: Runtime, tmp_path: Path) -> PretrainConfig:
    """The configuration of a run that has saved steps 2 and 4, with records of each step."""
    config = replace(tiny_config(data, steps=4), run_dir=str(tmp_path / "run"), save_every=2)
    opened = open_pretraining_data(config.data)
    state, plan = new_state(config, opened, runtime)
    with open_run(config, state, opened.tokenizer, plan) as run:
        train(state, language_model, plan, [run.logging(1, 16), run.saving(2)])
    return config


def test_a_whole_step_without_a_place_is_taken_back(config: PretrainConfig, runtime: Runtime) -> None:
    """The run resumes from a complete step that was being saved or replaced, never from an incomplete one."""
    run_dir = Path(config.run_dir)
    (run_dir / "step_00000004").rename(run_dir / ".saving")
    assert begun(config, runtime) == 4 and latest(run_dir) == run_dir / "step_00000004"
    (run_dir / "step_00000004").rename(run_dir / ".replaced_step_00000004")
    assert begun(config, runtime) == 4
    (run_dir / "step_00000004").rename(run_dir / ".saving")
    (run_dir / ".saving" / "optimizer.safetensors").write_bytes(b"")
    assert begun(config, runtime) == 2
    assert not list(run_dir.glob(".[rsd]*"))


def test_a_run_that_lost_its_steps_does_not_start_over(config: PretrainConfig, runtime: Runtime) -> None:
    """Records without their steps are kept: the run is refused with what to do."""
    run_dir = Path(config.run_dir)
    (run_dir / "config.yaml").write_text(dump(replace(config, save_every=1)))  # the first of two steps may be unsaved
    records = (run_dir / "metrics.jsonl").read_bytes()
    for step in (2, 4):
        (run_dir / f"step_{step:08d}").rename(run_dir.with_name(str(step)))
    for name in ("latest", "metrics.jsonl"):  # either file alone must suffice
        with pytest.raises(
            UserError, match=r"run: its records reach step \d, but its step directories are missing; restore"
        ):
            begun(replace(config, save_every=1000), runtime)
        assert (run_dir / "metrics.jsonl").read_bytes() == records
        if name == "latest":
            (run_dir / name).unlink()


@pytest.mark.parametrize("save_every", [250, 2])
def test_a_run_that_was_never_saved_starts_over(config: PretrainConfig, runtime: Runtime, save_every: int) -> None:
    """A run killed before its first step was on disk has nothing to resume from, whatever the new interval is."""
    run_dir = Path(config.run_dir)
    for step in (2, 4):
        (run_dir / f"step_{step:08d}").rename(run_dir.with_name(str(step)))
    (run_dir / "latest").unlink()
    (run_dir / "config.yaml").write_text(dump(replace(config, save_every=save_every)))
    assert begun(replace(config, save_every=1), runtime) == 0
    assert read_metrics(run_dir) == []


def test_what_looks_like_a_newer_step_is_not_passed_over(config: PretrainConfig, runtime: Runtime) -> None:
    """A directory with the name of a step and no resume.json is named and left alone, at a start and at a save."""
    foreign = Path(config.run_dir) / "step_00000006"
    foreign.mkdir()
    (foreign / "mine.txt").write_text("mine")
    told = "step_00000006: has the name of a step but no resume.json.* move it away, then .* from step_00000004"
    with pytest.raises(UserError, match=told):
        begun(config, runtime)
    longer = replace(config, plan=replace(config.plan, steps=6))
    foreign.rename(foreign.with_name("elsewhere"))
    opened = open_pretraining_data(config.data)
    state, plan = new_state(longer, opened, runtime)
    with (
        pytest.raises(UserError, match="step_00000006: is not a step of a run"),
        open_run(longer, state, opened.tokenizer, plan) as run,
    ):
        foreign.with_name("elsewhere").rename(foreign)
        train(state, language_model, plan, [run.saving(0)])
    assert (foreign / "mine.txt").read_text() == "mine"
    foreign.rename(foreign.with_name("elsewhere"))
    assert begun(longer, runtime) == 6  # the saved step was waiting to be renamed


@pytest.mark.parametrize("name", ["latest", "config.yaml", "environment.json", "metrics.jsonl", "samples.jsonl"])
def test_a_folder_in_the_place_of_a_file_is_one_line(config: PretrainConfig, runtime: Runtime, name: str) -> None:
    """It is named, at the start or when the file is written."""
    path = Path(config.run_dir) / name
    path.unlink()
    path.mkdir()
    longer = replace(config, plan=replace(config.plan, steps=5))
    opened = open_pretraining_data(config.data)
    state, plan = new_state(longer, opened, runtime)
    with (
        pytest.raises(UserError, match=name.replace(".", r"\.")) as error,
        open_run(longer, state, opened.tokenizer, plan) as run,
    ):
        train(state, language_model, plan, [run.logging(1, 16), run.saving(1)])
    assert "\n" not in str(error.value)


def test_a_file_that_may_not_grow_is_one_line(state: TrainState, tmp_path: Path) -> None:
    """A limit on the size of files, reached while saving, loses only that step."""
    checkpoint.save(state, tmp_path, None, keep=1)
    state.step = 3
    refusal = r"step 3 was not saved \(.*[Ff]ile too large.*\); fix that and"
    with files_up_to(20_000), pytest.raises(UserError, match=refusal) as error:
        checkpoint.save(state, tmp_path, None, keep=1)
    assert "\n" not in str(error.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", "step_00000002"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"keep": -1}, "keep=-1: must be at least 1"),
        ({"save_every": -5}, "save_every=-5: must be at least 0"),
        ({"eval_every": -5}, "eval_every=-5: must be at least 0"),
        ({"log_every": -1}, "log_every=-1: must be at least 0"),
        ({"early_stop": -1}, "early_stop=-1: must be at least 0"),
    ],
)
def test_numbers_that_mean_nothing_are_refused(
    data: Path, runtime: Runtime, tmp_path: Path, change: dict[str, int], message: str
) -> None:
    """A negative interval is an error of one line, before anything is written."""
    config = replace(tiny_config(data), run_dir=str(tmp_path / "run"), **change)
    with pytest.raises(UserError, match=message):
        begun(config, runtime)
    assert not (tmp_path / "run").exists()


def test_all_files_of_a_step_may_be_read_by_the_same_people(config: PretrainConfig) -> None:
    """The weights have the same permissions as the other files."""
    step = latest(Path(config.run_dir))
    assert step and len({stat.S_IMODE(path.stat().st_mode) for path in step.iterdir()}) == 1


def test_the_name_of_a_run_means_the_step_that_latest_names(config: PretrainConfig) -> None:
    """If `latest` is missing, empty or names a missing step, the run means its newest step."""
    run_dir = Path(config.run_dir)
    assert meant_step(run_dir) == run_dir / "step_00000004"
    (run_dir / "latest").write_text("step_00000002\n")
    assert meant_step(run_dir) == run_dir / "step_00000002"
    older = babyllm.load(run_dir / "step_00000002")[0].state_dict()
    assert all(torch.equal(tensor, older[name]) for name, tensor in babyllm.load(run_dir)[0].state_dict().items())
    for text in ("", "step_00000003\n", "../run\n"):
        (run_dir / "latest").write_text(text)
        assert meant_step(run_dir) == run_dir / "step_00000004"


def test_a_damaged_step_is_named_and_not_replaced_by_an_older_one(config: PretrainConfig, runtime: Runtime) -> None:
    """A newest step whose config.json is missing or changed is an error on loading and on resuming."""
    file = Path(config.run_dir, "step_00000004", "config.json")
    content = file.read_bytes()
    for damaged in (None, content.replace(b"llama", b"mlama")):
        file.unlink() if damaged is None else file.write_bytes(damaged)
        with pytest.raises(UserError, match=r"step_00000004/config\.json"):
            babyllm.load(config.run_dir)
        with pytest.raises(UserError, match=r"step_00000004/config\.json"):
            begun(config, runtime)
        assert meant_step(Path(config.run_dir)) == file.parent


def test_what_a_person_left_in_a_new_run_directory_is_kept(data: Path, runtime: Runtime, tmp_path: Path) -> None:
    """A shell's log file there is fine; a file that the run would overwrite is refused."""
    config = replace(tiny_config(data), run_dir=str(tmp_path / "run"))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "train.log").write_text("mine", encoding="utf-8")
    (tmp_path / "run" / "loss.png").write_text("mine", encoding="utf-8")
    opened = open_pretraining_data(config.data)
    state, plan = new_state(config, opened, runtime)
    with (
        pytest.raises(UserError, match=r"loss\.png: exists, was not made by a run and would be overwritten"),
        open_run(config, state, opened.tokenizer, plan),
    ):
        pass
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["loss.png", "train.log"]
    (tmp_path / "run" / "loss.png").unlink()
    with open_run(config, state, opened.tokenizer, plan) as run:
        train(state, language_model, plan, [run.saving(0)])
    assert (tmp_path / "run" / "train.log").read_text(encoding="utf-8") == "mine"
