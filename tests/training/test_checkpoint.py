"""Step directories: complete or absent, readable by transformers, refused when they do not fit."""

import json
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from training_fixtures import Repeated, tiny_config, tiny_state, weights, write_corpus

import babyllm
from babyllm import run_directory
from babyllm.config import dump
from babyllm.data.token_data import open_pretraining_data
from babyllm.errors import UserError
from babyllm.model.attention import attention_form, set_attention
from babyllm.objectives.lm import language_model
from babyllm.run_directory import take_back
from babyllm.runtime import Runtime
from babyllm.tokenizer import Tokenizer
from babyllm.training import checkpoint
from babyllm.training.loop import train
from babyllm.training.run import open_run
from babyllm.training.stages.pretraining import new_state
from babyllm.training.stages.pretraining_config import PretrainConfig
from babyllm.training.state import TrainState


@pytest.fixture
def state(data: Path, runtime: Runtime) -> TrainState:
    """A state at step 2."""
    config = tiny_config(data)
    state = tiny_state(config, runtime)
    train(state, language_model, replace(config.plan, steps=2))
    return state


def fresh(data: Path, runtime: Runtime, seed: int = 9) -> TrainState:
    """A state at step 0 with other weights than `state`."""
    config = tiny_config(data)
    return tiny_state(replace(config, plan=replace(config.plan, seed=seed)), runtime)


def everything(folder: Path) -> dict[str, bytes]:
    """The files below a folder, hidden ones included, with their bytes."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_step_directory_brings_back_the_whole_state(
    state: TrainState, data: Path, runtime: Runtime, tmp_path: Path
) -> None:
    """Weights, moments, data position, counters and the best evaluation are restored."""
    state.skipped, state.best, state.bad_evaluations = 3, (0.1 + 0.2, 1), 2
    checkpoint.save(state, tmp_path, None, keep=1)
    loaded = fresh(data, runtime)
    directory = run_directory.latest(tmp_path)
    assert directory == tmp_path / "step_00000002" and (tmp_path / "latest").read_text() == "step_00000002\n"
    assert not torch.equal(weights(loaded), weights(state))
    checkpoint.load(loaded, directory)
    assert torch.equal(weights(loaded), weights(state))
    pairs = zip(state.model.parameters(), loaded.model.parameters(), strict=True)
    for mine, theirs in ((state.optimizer.state[a], loaded.optimizer.state[b]) for a, b in pairs):
        assert mine.keys() == theirs.keys() == {"step", "exp_avg", "exp_avg_sq"}
        assert all(torch.equal(mine[key], theirs[key]) for key in mine)
    counters = ("step", "tokens", "skipped", "best", "bad_evaluations")
    assert [getattr(loaded, name) for name in counters] == [getattr(state, name) for name in counters]
    mine, theirs = next(state.stream), next(loaded.stream)
    assert all(torch.equal(a["tokens"], b["tokens"]) for a, b in zip(mine, theirs, strict=True))


@pytest.mark.parametrize("form", ["fused", "blocks"])
def test_a_resumed_run_computes_attention_as_it_began(
    form: str, state: TrainState, data: Path, runtime: Runtime, tmp_path: Path
) -> None:
    """The form that was chosen when the run began is stored with each step; a form that the user sets comes first."""
    set_attention(state.model, form)
    checkpoint.save(state, tmp_path, None, keep=1)
    other = "fused" if form == "blocks" else "blocks"
    again = fresh(data, runtime)
    set_attention(again.model, other)
    checkpoint.load(again, tmp_path / "step_00000002")
    assert attention_form(again.model) == form
    again.runtime = replace(runtime, attention=other)
    set_attention(again.model, other)
    checkpoint.load(again, tmp_path / "step_00000002")
    assert attention_form(again.model) == other


def test_the_newest_and_the_best_steps_stay(state: TrainState, tmp_path: Path) -> None:
    """The last `keep` steps, ordered as numbers, and the best one are kept."""
    state.best = (1.0, 3)
    for step in (1, 3, 5, 99_999_999, 100_000_000):
        state.step = step
        checkpoint.save(state, tmp_path, None, keep=2)
    assert list(run_directory.step_directories(tmp_path)) == [3, 99_999_999, 100_000_000]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "latest",
        "step_00000003",
        "step_100000000",
        "step_99999999",
    ]
    assert run_directory.latest(tmp_path) == tmp_path / "step_100000000"
    assert (tmp_path / "latest").read_text() == "step_100000000\n"


def test_what_a_kill_leaves_is_ignored_and_cleared(
    state: TrainState, data: Path, runtime: Runtime, tmp_path: Path
) -> None:
    """Half-written and half-deleted directories are ignored, and the next start removes them."""
    checkpoint.save(state, tmp_path, None, keep=2)
    for name in (".saving", ".deleting_step_00000001", ".replaced_step_00000001"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{")
    assert list(run_directory.step_directories(tmp_path)) == [2]
    take_back(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", "step_00000002"]
    for state.step in (9, 10):
        checkpoint.save(state, tmp_path, None, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", "step_00000009", "step_00000010"]
    for directory in run_directory.step_directories(tmp_path).values():
        checkpoint.load(fresh(data, runtime), directory)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one mebibyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("only root may mount a file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_costs_nothing_but_the_step(
    state: TrainState, data: Path, runtime: Runtime, small_disk: Path
) -> None:
    """Whenever the disk fills up while saving: an error of one line, no partial files, older steps untouched."""
    tokenizer = Tokenizer.load(data)
    run_dir = small_disk / "run"
    checkpoint.save(state, run_dir, tokenizer, keep=2)
    before = everything(run_dir)
    ballast = small_disk / "ballast"
    state.step, n_failed, free = 3, 0, 0
    while state.step not in run_directory.step_directories(run_dir):
        ballast.unlink(missing_ok=True)
        left = int(subprocess.check_output(["stat", "-f", "-c", "%f", str(small_disk)])) * 4096
        ballast.write_bytes(bytes(left - free))
        try:
            checkpoint.save(state, run_dir, tokenizer, keep=2)
        except UserError as error:
            assert str(error).startswith(f"{run_dir}: the disk is full, step 3 was not saved") and "\n" not in str(
                error
            )
            assert everything(run_dir) == before
            n_failed += 1
        free += 4096 if free < 65536 or free > size_of(before) - 65536 else 32768
    assert n_failed > 20
    checkpoint.load(fresh(data, runtime), run_dir / "step_00000002")
    checkpoint.load(fresh(data, runtime), run_dir / "step_00000003")


def size_of(files: dict[str, bytes]) -> int:
    return sum(len(content) for content in files.values())


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda raw: raw[: len(raw) // 2],
    "flipped": lambda raw: raw[:-9] + bytes([raw[-9] ^ 1]) + raw[-8:],
    "emptied": lambda raw: b"",
}


@pytest.mark.parametrize("damage", [*DAMAGE, "missing"])
@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "config.json"])
def test_a_damaged_file_is_named(
    state: TrainState, data: Path, runtime: Runtime, tmp_path: Path, name: str, damage: str
) -> None:
    """A file that is missing, cut or changed in one bit is refused; the message has its path and says what to do."""
    checkpoint.save(state, tmp_path, None, keep=1)
    file = tmp_path / "step_00000002" / name
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(DAMAGE[damage](file.read_bytes()))
    loaded = fresh(data, runtime)
    before = weights(loaded).clone()
    with pytest.raises(
        UserError, match=rf"{file}: is missing or not as it was saved; delete {file.parent} to go on"
    ) as error:
        checkpoint.load(loaded, file.parent)
    assert "\n" not in str(error.value)
    assert torch.equal(weights(loaded), before) and loaded.step == 0


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"step": 2}', '{"sha256": {}}', '{"sha256": []}'])
def test_a_damaged_resume_file_is_named(
    state: TrainState, data: Path, runtime: Runtime, tmp_path: Path, content: str
) -> None:
    """An invalid resume.json is refused with its path and left as it is."""
    checkpoint.save(state, tmp_path, None, keep=1)
    file = tmp_path / "step_00000002" / "resume.json"
    file.write_text(content)
    for use in (
        lambda: checkpoint.load(fresh(data, runtime), file.parent),
        lambda: checkpoint.Saver(tmp_path, None, keep=1).update(state),
    ):
        with pytest.raises(UserError, match=f"{file}: .*delete {file.parent} to go on"):
            use()
    assert file.read_text() == content


def test_a_changed_position_is_noticed(state: TrainState, data: Path, runtime: Runtime, tmp_path: Path) -> None:
    """A resume.json with one changed number is refused."""
    checkpoint.save(state, tmp_path, None, keep=1)
    file = tmp_path / "step_00000002" / "resume.json"
    file.write_text(file.read_text().replace('"consumed_rows": 16', '"consumed_rows": 24'))
    told = f"{file}: .*its contents are not what its sha256 says.*delete {file.parent}"
    with pytest.raises(UserError, match=told):
        checkpoint.load(fresh(data, runtime), file.parent)
    with pytest.raises(UserError, match=told):
        checkpoint.Saver(tmp_path, None, keep=1).update(state)  # which would write a new checksum


def begun(config: PretrainConfig, runtime: Runtime) -> int:
    """The step at which the run of `config` begins."""
    data = open_pretraining_data(config.data)
    state, plan = new_state(config, data, runtime)
    with open_run(config, state, data.tokenizer, plan):
        return state.step


def test_a_run_goes_on_with_its_own_model_and_data_alone(
    data: Path, runtime: Runtime, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another model, other data or another order are refused and named; other changes are accepted and shown."""
    config = replace(tiny_config(data), run_dir=str(tmp_path / "run"))
    opened = open_pretraining_data(config.data)
    state, plan = new_state(config, opened, runtime)
    with open_run(config, state, opened.tokenizer, plan) as run:
        train(state, language_model, plan, [run.saving(5), run.logging(1, 16)])
    assert begun(config, runtime) == 20
    wider = replace(config, model=replace(config.model, d_model=64))
    with pytest.raises(UserError, match=r"run: was made with another model: hidden_size 32 \(now 64\), .*--run_dir"):
        begun(wider, runtime)
    other = write_corpus(tmp_path / "other", n_documents=90)
    with pytest.raises(UserError, match=r"was made with other data \(data fingerprint .*--data\.path.*--run_dir"):
        begun(replace(config, data=replace(config.data, path=str(other))), runtime)
    with pytest.raises(UserError, match=r"was made with other data \(data seed 1, now 2\)"):
        begun(replace(config, data=replace(config.data, seed=2)), runtime)
    assert (tmp_path / "run" / "config.yaml").read_text() == dump(config)
    capsys.readouterr()
    assert begun(replace(config, plan=replace(config.plan, peak_lr=0.5)), runtime) == 20
    assert "changed since the last start: plan.peak_lr: 0.01 -> 0.5\n" in capsys.readouterr().out


def test_two_processes_do_not_share_a_run_directory(
    data: Path, runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While one process trains in a run directory another is refused; afterwards it is free again."""
    monkeypatch.setattr("babyllm.training.beginning.LOCK_PATIENCE_S", 0.3)
    config = replace(tiny_config(data), run_dir=str(tmp_path / "run"))
    opened = open_pretraining_data(config.data)
    state, plan = new_state(config, opened, runtime)
    with (
        open_run(config, state, opened.tokenizer, plan),
        pytest.raises(UserError, match="run: another process is training there"),
    ):
        begun(config, runtime)
    assert begun(config, runtime) == 0


def test_a_configuration_of_another_version_does_not_stop_a_run(
    data: Path, runtime: Runtime, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A stored config.yaml with a key that no longer exists is reported and replaced."""
    config = replace(tiny_config(data), run_dir=str(tmp_path / "run"))
    opened = open_pretraining_data(config.data)
    state, plan = new_state(config, opened, runtime)
    with open_run(config, state, opened.tokenizer, plan) as run:
        train(state, language_model, plan, [run.saving(5)])
    (tmp_path / "run" / "config.yaml").write_text("old_key: 1\n")
    assert begun(config, runtime) == 20
    assert "config.yaml was written by another version of babyllm" in capsys.readouterr().out


@pytest.mark.parametrize("tie_embeddings", [False, True])
def test_a_step_directory_is_a_model_of_transformers(
    data: Path, runtime: Runtime, tmp_path: Path, tie_embeddings: bool
) -> None:
    """transformers loads model and tokenizer and returns the same logits and ids; so does babyllm.load."""
    import transformers

    config = tiny_config(data)
    config = replace(config, model=replace(config.model, tie_embeddings=tie_embeddings))
    state, tokenizer = tiny_state(config, runtime), Tokenizer.load(data)
    train(state, language_model, replace(config.plan, steps=5))
    checkpoint.save(state, tmp_path / "run", tokenizer, keep=1)
    directory = tmp_path / "run" / "step_00000005"
    text = "abba cad 中文"
    ids = torch.tensor([tokenizer.encode(text)])
    theirs = transformers.AutoModelForCausalLM.from_pretrained(directory)
    assert transformers.AutoTokenizer.from_pretrained(directory)(text)["input_ids"] == ids[0].tolist()
    expected = state.model.eval().logits(ids)
    with torch.no_grad():
        assert (theirs(ids).logits - expected).abs().max() < 1e-4
    assert expected.std() > 0.1
    model, loaded = babyllm.load(tmp_path / "run")
    assert torch.equal(model.logits(ids), expected) and loaded.encode(text) == ids[0].tolist()


def test_nothing_is_pickled(state: TrainState, data: Path, tmp_path: Path) -> None:
    """A step directory holds JSON, safetensors and the tokenizer's model, which is not a pickle."""
    checkpoint.save(state, tmp_path, tokenizer := Tokenizer.load(data), keep=1)
    for path in (tmp_path / "step_00000002").iterdir():
        if path.suffix == ".json":
            json.loads(path.read_text(encoding="utf-8"))
        elif path.suffix == ".safetensors":
            with safe_open(path, "pt") as file:
                assert len(list(file.keys())) > 10
        else:
            assert path.name == "tokenizer.model" and path.read_bytes() == (data / "tokenizer.model").read_bytes()
    assert tokenizer.sha256 == Tokenizer.load(tmp_path / "step_00000002").sha256


def test_a_run_can_be_saved_before_its_first_finite_step(data: Path, runtime: Runtime, tmp_path: Path) -> None:
    """A state whose optimizer has no moments yet is saved and loaded like any other."""
    config = tiny_config(data)
    state = tiny_state(config, runtime)
    state.stream = Repeated(next(state.stream))
    checkpoint.save(state, tmp_path, None, keep=1)
    loaded = fresh(data, runtime)
    loaded.stream = state.stream
    train(loaded, language_model, replace(config.plan, steps=1))  # its moments must not survive the load
    checkpoint.load(loaded, tmp_path / "step_00000000")
    assert torch.equal(weights(loaded), weights(state)) and loaded.step == 0
    assert not loaded.optimizer.state
    plan = replace(config.plan, steps=2)
    train(state, language_model, plan)
    train(loaded, language_model, plan)
    assert torch.equal(weights(loaded), weights(state))
