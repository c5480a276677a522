"""The commands that train, such as `babyllm pretrain`, which are the scripts under another name."""

import runpy
import sys
from pathlib import Path

import pytest
from training_fixtures import ROOT

from babyllm.__main__ import run
from babyllm.runtime.launching.launch import own_command

STAGES = {name: f"train_{name}.py" for name in ("pretrain", "sft", "reward", "classifier", "dpo", "ppo", "grpo")}


def printed_by_script(name: str, flag: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    monkeypatch.setattr(sys, "argv", [name, flag])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / name), run_name="__main__")
    assert ended.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("command", STAGES)
@pytest.mark.parametrize("flag", ["--help", "--print_config"])
def test_a_command_reads_what_its_script_reads(
    command: str,
    flag: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Help and the resolved configuration of a command and of its script are equal but for the program's name."""
    monkeypatch.chdir(tmp_path)
    by_script = printed_by_script(STAGES[command], flag, monkeypatch, capsys)
    monkeypatch.setattr(sys, "argv", ["babyllm", command, flag])
    with pytest.raises(SystemExit) as ended:
        run([command, flag])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert out == by_script.replace(f"usage: {STAGES[command]} ", f"usage: babyllm {command} ")
    assert "run_dir" in out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("typed", "argv"),
    [
        (["-m", "babyllm", "pretrain", "--plan.steps=2"], ["babyllm/__main__.py", "pretrain", "--plan.steps=2"]),
        (["-X", "dev", "-m", "babyllm", "sft"], ["babyllm/__main__.py", "sft"]),
        (["/venv/bin/babyllm", "pretrain"], ["/venv/bin/babyllm", "pretrain"]),
        (["train_pretrain.py", "--debug"], ["train_pretrain.py", "--debug"]),
    ],
)
def test_a_process_starts_its_own_command_again(
    typed: list[str], argv: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ranks of a run get the command line of the process that starts them, whether module, program or script."""
    monkeypatch.setattr(sys, "orig_argv", ["python", *typed])
    monkeypatch.setattr(sys, "argv", argv)
    assert own_command() == [sys.executable, *typed]


def test_every_folder_of_modules_is_a_package() -> None:
    """Each has an `__init__.py`, so that no build takes it for a folder of data and leaves it out."""
    folders = {path.parent for path in (ROOT / "babyllm").rglob("*.py")}
    assert [folder for folder in sorted(folders) if not (folder / "__init__.py").is_file()] == []
