"""The script train_pretrain.py: the files of a run, and its errors."""

import io
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from training_fixtures import FLAGS, ROOT, SCRIPT, write_corpus

import babyllm
from babyllm.config import load
from babyllm.training.recording.records import read_metrics
from babyllm.training.stages.pretraining_config import PretrainConfig

Run = Callable[..., int]


@pytest.fixture
def run(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A function that runs the script in this process with `base`, `tmp_path`/run and more flags: its status."""
    monkeypatch.chdir(tmp_path)

    def run(*flags: str, base: Sequence[str] = FLAGS) -> int:
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *base, f"--data.path={data}", "--run_dir=run", *flags])
        try:
            runpy.run_path(str(SCRIPT), run_name="__main__")
        except SystemExit as exit:
            return int(exit.code or 0)
        return 0

    return run


def test_a_run_leaves_all_its_records(data: Path, tmp_path: Path) -> None:
    """As a command, without torch.distributed.run's variables: exit status 0, every file and every key."""
    command = [sys.executable, str(SCRIPT), *FLAGS, f"--data.path={data}", "--run_dir=runs/first", "--keep=1"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "finished at step 12 of 12" in done.stdout and "held-out bits per byte: left" in done.stdout

    folder = tmp_path / "runs" / "first"
    names = {path.name for path in folder.iterdir()}
    fixed = {".lock", "config.yaml", "environment.json", "metrics.jsonl", "samples.jsonl", "latest", "loss.png"}
    fixed |= {"messages.jsonl", "report.html"}
    (events,) = (name for name in names if name.startswith("events.out.tfevents."))
    # Step 6 is deleted unless it is the best.
    assert names - {"step_00000006"} == fixed | {events, "step_00000012"}
    assert (folder / "latest").read_text() == "step_00000012\n"
    assert (folder / "loss.png").read_bytes().startswith(b"\x89PNG") and (folder / events).stat().st_size > 1000

    assert "report: runs/first/report.html" in done.stdout and "</html>" in (folder / "report.html").read_text()

    config = load(PretrainConfig, folder / "config.yaml")
    assert (config.model.d_model, config.plan.peak_lr, config.data.path) == (32, 0.01, str(data))
    environment_file = json.loads((folder / "environment.json").read_text())
    assert {"babyllm", "torch", "python", "world_size", "commit"} <= environment_file.keys()
    records = read_metrics(folder)
    assert [record["step"] for record in records] == list(range(1, 13))
    for record in records:
        assert {"step", "loss", "lr", "grad_norm", "tokens", "tokens_per_s", "mfu"} <= record.keys()
        assert record["loss/end"] == record["loss/special"]
        assert all(value is not None and value >= 0 for value in record.values())
    assert records[-1]["tokens"] == pytest.approx(12 * 8 * 16, abs=2 * 16)
    held_out = {f"val/{domain}/{unit}" for domain in ("left", "right", "all") for unit in ("loss", "bpb")}
    assert [record["step"] for record in records if held_out <= record.keys()] == [6, 12]
    samples = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    assert [(s["step"], s["name"], s["text"][:2]) for s in samples] == [(6, "sample/0", "ab"), (12, "sample/0", "ab")]
    model, tokenizer = babyllm.load(folder)
    assert babyllm.generate(model, tokenizer, "ab", max_new_tokens=4, seed=1)


def test_a_finished_run_stays_as_it_is(run: Run, tmp_path: Path) -> None:
    """The same command again trains nothing and rewrites no checkpoint; with more steps it goes on."""
    assert run("--plan.steps=5", "--log_every=3") == 0
    step = tmp_path / "run" / "step_00000005"
    before = step.stat().st_ino, read_metrics(tmp_path / "run")
    assert run("--plan.steps=5", "--log_every=3") == 0
    assert (step.stat().st_ino, read_metrics(tmp_path / "run")) == before
    assert run("--plan.steps=7", "--log_every=3") == 0
    assert (tmp_path / "run" / "latest").read_text() == "step_00000007\n"


def test_training_ends_early_where_nothing_is_gained(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With --early_stop=2 a constant held-out loss ends the run at the third evaluation; the first step is the best."""
    flags = ("--plan.peak_lr=0", "--early_stop=2", "--eval_every=2", "--save_every=2", "--keep=1", "--log_every=2")
    assert run(*flags) == 0
    assert "stopped at step 6 of 12" in (output := capsys.readouterr().out)
    assert "reason: no lower held-out loss in 2 evaluations, the best was at step 2; raise --early_stop" in output
    assert sorted(path.name for path in (tmp_path / "run").glob("step_*")) == ["step_00000002", "step_00000006"]
    resume = json.loads((tmp_path / "run" / "step_00000006" / "resume.json").read_text())
    assert resume["best"][1] == 2 and resume["bad_evaluations"] == 2
    records = read_metrics(tmp_path / "run")
    assert [record["step"] for record in records] == [2, 4, 6]
    assert len({record["val/all/loss"] for record in records}) == 1
    assert run(*flags) == 0 and "stopped at step 6 of 12" in capsys.readouterr().out
    assert run(*flags, "--early_stop=3") == 0 and "stopped at step 8 of 12" in capsys.readouterr().out


def test_weights_of_another_run_are_a_beginning(run: Run, tmp_path: Path) -> None:
    """--init_from takes only the weights of a run directory."""
    assert run("--plan.steps=3") == 0
    shapeless = [flag for flag in FLAGS if not flag.startswith("--model.")]
    assert run("--plan.steps=1", "--plan.peak_lr=0", "--run_dir=second", "--init_from=run", base=shapeless) == 0
    first, second = (read_metrics(tmp_path / name) for name in ("run", "second"))
    assert second[0]["val/all/loss"] == pytest.approx(first[-1]["val/all/loss"], rel=1e-6)
    assert first[0]["tokens"] == second[0]["tokens"]
    stretch = ("--model.rope_scaling=linear", "--model.rope_factor=4", "--data.seq_len=100")
    assert run("--plan.steps=1", *stretch, "--run_dir=third", "--init_from=run", base=shapeless) == 0
    written = json.loads((tmp_path / "third" / "step_00000001" / "config.json").read_text())
    assert written["rope_scaling"] == {"rope_type": "linear", "factor": 4.0}
    assert written["max_position_embeddings"] == 4 * babyllm.load(tmp_path / "run")[0].config.max_seq_len


def test_the_configuration_can_be_printed(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--print_config only prints the configuration, as a file that means the same."""
    assert run("--print_config") == 0
    text = capsys.readouterr().out
    (tmp_path / "printed.yaml").write_text(text)
    assert load(PretrainConfig, tmp_path / "printed.yaml").plan.steps == 12
    assert [path.name for path in tmp_path.iterdir()] == ["printed.yaml"]


def test_the_preset_suits_the_device_and_stays_with_the_run(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a preset a CPU gets nano; a run directory that was made with another one keeps it."""
    assert run("--print_config") == 0 and "preset: nano\n" in capsys.readouterr().out
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("model:\n  preset: tiny\n")
    assert run("--print_config") == 0 and "preset: tiny\n" in capsys.readouterr().out


def refused(run: Run, capsys: pytest.CaptureFixture[str], *flags: str) -> str:
    """The one line on stderr of a run that ends with status 1 and leaves no run directory."""
    assert run(*flags) == 1
    captured = capsys.readouterr()
    assert re.fullmatch(r"train_pretrain\.py: [^\n]+\n", captured.err), captured.err
    assert not Path("run").exists()
    return captured.err


MISTAKES = {
    "--data.seqlen=8": "unknown option --data.seqlen: did you mean --data.seq_len?",
    "--data.seq=8": "unknown option --data.seq",
    "--plan.steps=many": "--plan.steps expects int",
    "--plan.steps=0": "plan.steps=0: must be at least 1",
    "--plan.warmup=20": "plan.steps is 12",
    "--data.micro_batch=3": "data.micro_batch=3: does not divide the 8 sequences per rank",
    "--data.global_batch=0": "data.global_batch=0: must be at least 1",
    "--model.d_model=16777216": "parameters take 24,769,826 GB, this machine has",
    "--data.seq_len=4000": "data.seq_len=4000: the training data holds only",
    "--model.vocab_size=100": "model.vocab_size=100: the data's vocabulary has 290 ids",
    "--model.n_heads=5": "model.n_heads=5: must divide model.d_model=32",
    "--model.preset=huge": "model.preset=huge: unknown, choose one of",
    "--data.path=nowhere": "nowhere: no such file or directory",
    "--init_from=nowhere": "nowhere: does not exist; give the directory",
    "--config=nowhere.yaml": "nowhere.yaml: this configuration file cannot be read",
    "--runtime.device=tpu": "runtime.device=tpu: choose",
    f"--prompts=[{'abba ' * 40}]": "--prompts: 'abba abba abba abba '... leaves no room in the context of 64 tokens",
}


@pytest.mark.parametrize("flag", MISTAKES)
def test_a_mistake_is_one_line(run: Run, capsys: pytest.CaptureFixture[str], flag: str) -> None:
    """A wrong flag ends the script with status 1 and a line that names it."""
    assert MISTAKES[flag] in refused(run, capsys, flag)


def test_damaged_data_is_one_line(run: Run, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An empty directory, a missing or cut shard, an invalid manifest and a foreign tokenizer are named."""
    broken = tmp_path / "broken"
    broken.mkdir()
    assert "broken: holds neither manifest.json nor .bin files" in refused(run, capsys, "--data.path=broken")
    shutil.copytree(data, broken, dirs_exist_ok=True)
    shard = broken / "left-train-00000.bin"
    raw = shard.read_bytes()
    shard.write_bytes(raw[:-2])
    assert f"broken/{shard.name}: {len(raw) - 2} bytes, the manifest says" in refused(run, capsys, "--data.path=broken")
    shard.unlink()
    assert f"broken/{shard.name}: missing" in refused(run, capsys, "--data.path=broken")
    shard.write_bytes(raw[:-4] + raw[:4])
    assert "its sha256 is not the manifest's" in refused(run, capsys, "--data.path=broken")
    shard.write_bytes(raw)
    manifest = (data / "manifest.json").read_bytes()
    for damaged in (b"{}", b"", bytes(len(manifest)), manifest[:1], b"\0" + manifest[1:], manifest[1:]):
        (broken / "manifest.json").write_bytes(damaged)
        bare = ("--data.path=broken", "--model.vocab_size=400", "--data.eos_id=2")
        assert "broken/manifest.json: not a manifest" in refused(run, capsys, *bare)
    write_corpus(tmp_path / "other", n_documents=90)
    shutil.copy(data / "manifest.json", broken)
    shutil.copy(tmp_path / "other" / "tokenizer.model", broken)
    assert "broken/tokenizer.model: is damaged or not the one that manifest.json" in refused(
        run, capsys, "--data.path=broken"
    )


def test_a_configuration_file_is_checked_like_flags(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An unknown key in the file is named with the nearest known one."""
    (tmp_path / "mine.yaml").write_text("plan:\n  peak_rl: 0.1\n")
    assert "mine.yaml:2: unknown key 'plan.peak_rl': did you mean 'plan.peak_lr'?" in refused(
        run, capsys, "--config=mine.yaml"
    )


def test_a_directory_that_cannot_be_written_is_one_line(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file in the place of the run directory is named."""
    (tmp_path / "file").touch()
    assert "file/run: cannot be written" in refused(run, capsys, "--run_dir=file/run")
    assert "file: cannot be written" in refused(run, capsys, "--run_dir=file")


def test_a_run_survives_a_full_disk(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line says that the disk is full; with more space the same command resumes from the last complete step."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=768k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("only root may mount a file system")
    try:
        flags = ("--run_dir=disk/run", "--eval_every=100", "--optim.matrices=adamw")
        assert run(*flags) == 1
        error = capsys.readouterr().err
        assert re.fullmatch(r"train_pretrain\.py: disk/run: the disk is full, step 8 was not saved; [^\n]+\n", error)
        assert sorted(path.name for path in (disk / "run").glob("*step_*")) == ["step_00000004"]
        assert (disk / "run" / "latest").read_text() == "step_00000004\n"
        subprocess.run(["mount", "-o", "remount,size=8m", disk], check=True)
        assert run(*flags) == 0
        assert "resuming from disk/run/step_00000004" in capsys.readouterr().out
        assert [record["step"] for record in read_metrics(disk / "run")] == list(range(1, 13))
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_console_without_reader_or_characters_changes_nothing(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run whose output cannot encode Chinese and has no reader is trained, evaluated and saved all the same."""
    reading, writing = os.pipe()
    os.close(reading)
    with io.TextIOWrapper(os.fdopen(writing, "wb"), encoding="ascii", line_buffering=True) as console:
        monkeypatch.setattr(sys, "stdout", console)
        assert run("--prompts=[今天]") == 0
    assert (tmp_path / "run" / "latest").read_text(encoding="utf-8") == "step_00000012\n"
