"""The completion scripts, asked by the shells themselves."""

import os
import pty
import shutil
import subprocess
from contextlib import redirect_stdout
from pathlib import Path

import pytest

from babyllm import __main__ as command_line
from babyllm.commands.use.completion import flags_of, modules


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("completion")
    for shell in ("bash", "zsh", "fish"):
        with (folder / shell).open("w", encoding="utf-8") as script, redirect_stdout(script):
            command_line.run(["completion", shell])
    return folder


def complete_in_bash(scripts: Path, *words: str) -> set[str]:
    """What bash offers for the last word; it splits words at `=`."""
    quoted = " ".join(f"'{word}'" for word in words)
    code = (
        f'source {scripts}/bash; COMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}; _babyllm; echo "${{COMPREPLY[@]}}"'
    )
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True, cwd=scripts)
    return set(done.stdout.split())


def test_bash_completes_commands_flags_values_and_files(scripts: Path) -> None:
    assert complete_in_bash(scripts, "babyllm", "pre") == {"predict", "pretrain"}
    assert complete_in_bash(scripts, "babyllm", "pretrain", "--plan.sch") == {"--plan.schedule="}
    assert complete_in_bash(scripts, "babyllm", "pretrain", "--model.rope_scaling", "=", "y") == {"yarn"}
    assert complete_in_bash(scripts, "babyllm", "clean", "fi") == {"fish"}


@pytest.mark.skipif(shutil.which("fish") is None, reason="no fish on this machine")
def test_fish_completes_commands_flags_and_values(scripts: Path) -> None:
    code = f'source {scripts}/fish; complete -C "babyllm pretr"; complete -C "babyllm pretrain --model.rope_scaling=y"'
    done = subprocess.run(["fish", "-c", code], capture_output=True, text=True, check=True)
    assert {line.split("\t")[0] for line in done.stdout.splitlines()} == {"pretrain", "--model.rope_scaling=yarn"}


@pytest.mark.skipif(shutil.which("zsh") is None, reason="no zsh on this machine")
def test_zsh_completes_a_value(scripts: Path, tmp_path: Path) -> None:
    """Typed into a zsh of its own, followed by Tab and Enter; `babyllm` there prints its arguments."""
    (tmp_path / ".zshrc").write_text(
        f'autoload -U compinit && compinit -u\nbabyllm() {{ print -r -- "$@" > said }}\nsource {scripts}/zsh\n', "utf-8"
    )
    main, side = pty.openpty()
    environment = {**os.environ, "ZDOTDIR": str(tmp_path), "TERM": "dumb"}
    with subprocess.Popen(["zsh", "-i"], stdin=side, stdout=side, stderr=side, cwd=tmp_path, env=environment) as zsh:
        os.write(main, b"babyllm pretrain --model.rope_scaling=ya\t\nexit\n")
        zsh.wait(60)
    os.close(main)
    os.close(side)
    assert (tmp_path / "said").read_text(encoding="utf-8").strip() == "pretrain --model.rope_scaling=yarn"


def test_flags_are_those_of_the_help() -> None:
    flags = flags_of(modules()["clean"])
    assert {"work.workers", "config", "help"} <= set(flags)
    assert set(modules()) == set(command_line.COMMANDS)
    with pytest.raises(command_line.UserError, match="csh: no completion"):
        command_line.run(["completion", "csh"])
