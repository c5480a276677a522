"""Every command on a page is one that babyllm understands: its name, its flags and their values.

`test_pages_run.py` also runs them.
"""

import re
from pathlib import Path
from typing import Any

import pytest
from page_commands import ROOT, Block, blocks, english_pages

from babyllm import __main__ as command_line
from babyllm.config import parse

SCRIPTS = re.compile(r"train_(\w+)\.py$")
ALL = [block for page in english_pages() for block in blocks(page, "bash")]
OTHER_PROGRAMS = (
    "pip",
    "python",
    "torchrun",
    "tensorboard",
    "export",
    "ln",
    "cd",
    "make",
    "git",
    "curl",
    "echo",
    "cp",
    "head",
)


def babyllm_words(command: list[str]) -> list[str] | None:
    """The arguments of babyllm in a command, or None: `torchrun ... train_sft.py --x=1` is `sft --x=1`."""
    for n, word in enumerate(command):
        if (script := SCRIPTS.search(word)) and command[0] in ("python", "torchrun"):
            return [script[1], *command[n + 1 :]]
        if word == "babyllm" and (n == 0 or command[n - 1] == "-m"):
            return command[n + 1 :]
    return None


def simple(command: list[str]) -> list[list[str]]:
    """The parts of a command between `&&`, `|` and `&`, without redirections."""
    parts: list[list[str]] = [[]]
    for n, word in enumerate(command):
        if word in ("&&", "|", "&"):
            parts.append([])
        elif word[:1] not in ("<", ">") and command[n - 1] not in ("<", ">", ">>"):
            parts[-1].append(word)
    return [part for part in parts if part]


@pytest.fixture
def only_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stages that stop after their flags have been read."""

    def read(argv: list[str], kind: type[Any], begin: Any, resolve: Any, prog: str, description: str) -> None:
        parse(kind, argv, prog=prog)

    monkeypatch.setattr("babyllm.training.script.run_stage", read)
    monkeypatch.chdir(ROOT)


def understand(arguments: list[str]) -> None:
    """Read one command line as `babyllm` would, and run nothing.

    Raises:
        UserError: it has a mistake.
    """
    name, rest = arguments[0], arguments[1:]
    module = command_line._module(name)
    rest = [word for word in rest if not (word.startswith("--config=") and not Path(word.partition("=")[2]).exists())]
    if name in command_line.STAGES:
        module.main(rest)
        return
    given, flags = command_line._split_arguments(rest)
    parse(module.Flags, flags, prog=name)
    names = module.ARGUMENTS.split()
    assert len(given) >= sum(not word.startswith("[") for word in names), f"{name} takes {module.ARGUMENTS}"
    assert "..." in module.ARGUMENTS or len(given) <= len(names), f"{name} takes {module.ARGUMENTS}"


@pytest.mark.parametrize("block", ALL, ids=str)
def test_commands_are_understood(block: Block, only_parsed: None) -> None:
    for command in (part for words in block.commands for part in simple(words)):
        arguments = babyllm_words(command)
        if arguments is None:
            assert command[0] in OTHER_PROGRAMS or block.mark, command
        elif arguments and "--help" not in arguments:
            understand([word for word in arguments if word != "--print_config"])


def test_a_wrong_flag_on_a_page_is_found(only_parsed: None) -> None:
    with pytest.raises(Exception, match=r"plan\.step"):
        understand(["pretrain", "--plan.step=3"])
    with pytest.raises(AssertionError, match="takes"):
        understand(["clean", "raw"])


def test_every_block_that_is_not_run_says_why() -> None:
    for block in ALL:
        assert not block.mark or re.fullmatch(r"quickstart: \w+|not run: .{8,}", block.mark), f"{block}: {block.mark}"
