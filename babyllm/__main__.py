"""The command `babyllm COMMAND ...`, also `python -m babyllm`.

A command is a module of `babyllm.commands`. Positional arguments come before the flags, or after `--`.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from importlib import import_module
from keyword import iskeyword
from pathlib import Path
from pkgutil import get_data
from typing import Any

from babyllm.console import lasting_output, leaving_at_once
from babyllm.errors import UserError

COMMANDS = {
    "chat": "use",
    "classifier": "training",
    "clean": "corpus",
    "compare": "use",
    "completion": "use",
    "dedup": "corpus",
    "doctor": "use",
    "dpo": "training",
    "eval": "use",
    "export": "training",
    "flywheel": "making",
    "generate": "use",
    "grpo": "training",
    "harvest": "making",
    "import": "training",
    "index": "corpus",
    "inspect": "corpus",
    "judge": "use",
    "label": "making",
    "lr-range": "runs",
    "merge-lora": "training",
    "mix": "use",
    "plan": "training",
    "ppo": "training",
    "predict": "use",
    "pretrain": "training",
    "records": "making",
    "report": "runs",
    "reward": "training",
    "sample": "use",
    "serve": "use",
    "sft": "training",
    "select": "corpus",
    "split": "corpus",
    "synth": "making",
    "takedown": "corpus",
    "tokenize": "corpus",
    "tokens": "corpus",
    "topics": "corpus",
    "train-tokenizer": "corpus",
    "turns": "making",
    "upload": "training",
}
"""The folder of each command's module in `babyllm.commands`."""
# The stages of training. They and `lr-range` read their own flags and may start other processes.
STAGES = ("pretrain", "sft", "reward", "classifier", "dpo", "ppo", "grpo")
OWN_FLAGS = (*STAGES, "lr-range")
# Commands whose result is what they write or serve; the result of the others is what they print.
WRITERS = (
    *("clean", "compare", "dedup", "export", "flywheel", "harvest", "import", "judge", "label", "merge-lora", "mix"),
    *("predict", "records", "report", "sample", "select", "serve", "split", "synth", "takedown", "tokenize", "topics"),
    *("train-tokenizer", "turns", "upload"),
)


def run(argv: Sequence[str]) -> None:
    """Run one command.

    Raises:
        UserError: the command or its arguments are wrong.
    """
    if not argv:
        from babyllm.commands.next_step import way_to_chat

        print(f"{way_to_chat(Path())}\nAll commands: babyllm --help; settings of one: babyllm COMMAND --help")
        return
    if argv[0] in ("--help", "-h", "help"):
        print("usage: babyllm COMMAND ...\n")
        for name in COMMANDS:
            words, summary = _in_source(name)
            print(f"  {f'babyllm {name} {words}'.rstrip():<56} {summary}")
        return
    from babyllm.config import parse

    name = argv[0]
    if name not in COMMANDS:
        raise UserError(f"{name}: no such command; choose one of {', '.join(COMMANDS)}")
    module = _module(name)
    if name in OWN_FLAGS:
        module.main(argv[1:])
        return
    arguments, given = _split_arguments(argv[1:])
    flags = parse(module.Flags, given, prog=_usage(name), description=module.__doc__ or "")
    names, n = module.ARGUMENTS.split(), len(arguments)
    n_required = sum(not word.startswith("[") for word in names)
    if n < n_required or (n > len(names) and "..." not in module.ARGUMENTS):
        raise UserError(f"usage: {_usage(name)} [--flag=value ...]")
    with lasting_output() if name in WRITERS else nullcontext():
        module.run(flags, *(_argument(names[min(i, len(names) - 1)], text) for i, text in enumerate(arguments)))


def _split_arguments(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """(positional arguments, flags); everything after `--` is positional, and so is a single `-`."""
    words = list(argv)
    end = words.index("--") if "--" in words else len(words)
    n = next((i for i, word in enumerate(words[:end]) if word.startswith("-") and word != "-"), end)
    return words[:n] + words[end + 1 :], words[n:end]


def _argument(word: str, text: str) -> str:
    """A positional argument as a command takes it; all except prompts are paths, whose `~` is expanded."""
    from babyllm.config.values import expanded

    if "PROMPT" in word:
        return text
    try:
        return expanded(text)
    except UserError as error:
        raise UserError(f"{word.strip('[].')} {error}") from None


def _module(name: str) -> Any:
    return import_module(module_of(name))


def module_of(name: str) -> str:
    """The full name of a command's module; `import` is a word of Python, so its module is `import_`."""
    return f"babyllm.commands.{COMMANDS[name]}.{name.replace('-', '_')}{'_' * iskeyword(name)}"


def _in_source(name: str) -> tuple[str, str]:
    """The `ARGUMENTS` of a command and the first line of its docstring, read without running the module's imports."""
    source = get_data("babyllm", f"{module_of(name).partition('.')[2].replace('.', '/')}.py") or b""
    tree = ast.parse(source)
    values = [
        node.value for node in tree.body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "ARGUMENTS"
    ]
    return ast.literal_eval(values[0]), (ast.get_docstring(tree) or "").partition("\n")[0]


def _usage(name: str) -> str:
    return f"babyllm {name} {_module(name).ARGUMENTS}".rstrip()


def main() -> None:
    """Run the command line; a user's mistake becomes one line on stderr and exit status 1."""
    with leaving_at_once():  # the imports take a while
        import_module("babyllm.config")
        from babyllm.runtime import user_errors
    with user_errors():
        run(sys.argv[1:])


if __name__ == "__main__":
    main()
