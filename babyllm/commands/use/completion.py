"""Print a script that completes commands, flags and their values in a shell: bash, zsh or fish.

bash: `eval "$(babyllm completion bash)"` in ~/.bashrc. zsh: `eval "$(babyllm completion zsh)"` in ~/.zshrc, after
`compinit`. fish: `babyllm completion fish > ~/.config/fish/completions/babyllm.fish`. The script asks nothing later, so
completing costs no time; print it again after an update.
"""

from __future__ import annotations

import io
import re
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass
from importlib import import_module
from pkgutil import get_data, walk_packages

from babyllm import commands
from babyllm.config import parse
from babyllm.errors import UserError

ARGUMENTS = "SHELL"
SHELLS = ("bash", "zsh", "fish")
_FLAG = re.compile(r"^  --([\w.]+) +(.*(?:\n {20,}.*)*)", re.MULTILINE)
_CHOICES = re.compile(r"\(([\w.-]+(?: \| [\w.-]+)+); default [^)]*\)\Z")
_TYPES = {"text", "int", "float", "null", "list", "mapping"}


@dataclass(frozen=True)
class Flags:
    """Flags of `babyllm completion`; it has none of its own."""


def run(flags: Flags, shell: str) -> None:
    """Print the script for a shell.

    Raises:
        UserError: there is no script for that shell.
    """
    if shell not in SHELLS:
        raise UserError(f"{shell}: no completion for this shell; choose one of {', '.join(SHELLS)}")
    known = {name: flags_of(module) for name, module in sorted(modules().items())}
    print(
        _fish(known)
        if shell == "fish"
        else _bash(known, "autoload -U bashcompinit && bashcompinit\n" * (shell == "zsh"))
    )


def modules() -> dict[str, str]:
    """The full names of the modules of all commands, by command: `merge-lora` is in `training.merge_lora`."""
    found = walk_packages(commands.__path__, f"{commands.__name__}.")
    sources = {info.name: get_data(*split_name(info.name)) or b"" for info in found if not info.ispkg}
    are = [name for name, source in sources.items() if b"\nARGUMENTS = " in source]
    return {name.rpartition(".")[2].rstrip("_").replace("_", "-"): name for name in are}


def split_name(module: str) -> tuple[str, str]:
    """The package of a module and the name of its file."""
    package, _, name = module.rpartition(".")
    return package, f"{name}.py"


def flags_of(module_name: str) -> dict[str, list[str]]:
    """The flags of a command without their dashes, as its help lists them, with the values that each may have.

    A flag whose values cannot be listed has an empty list.
    """
    module, text = import_module(module_name), io.StringIO()
    with redirect_stdout(text), suppress(SystemExit):
        parse(module.Flags, ["--help"], prog="") if hasattr(module, "Flags") else module.main(["--help"])
    return {name: _choices(" ".join(words.split())) for name, words in _FLAG.findall(text.getvalue())}


def _choices(description: str) -> list[str]:
    found = _CHOICES.search(description)
    return [word for word in found[1].split(" | ") if word not in _TYPES] if found else []


def _bash(known: dict[str, dict[str, list[str]]], begin: str) -> str:
    """A function for bash, where `--key=value` are three words; zsh reads it by its own layer for bash."""
    of_commands = "\n".join(
        f'    {name}) flags="{" ".join(f"--{flag}" for flag in flags)}" ;;' for name, flags in known.items()
    )
    of_values = "\n".join(
        f'    {name}:--{flag}) values="{" ".join(values)}" ;;'
        for name, flags in known.items()
        for flag, values in flags.items()
        if values
    )
    return f"""{begin}_babyllm() {{
  local word="${{COMP_WORDS[COMP_CWORD]}}" before="${{COMP_WORDS[COMP_CWORD-1]}}" command="${{COMP_WORDS[1]}}"
  local flags="" values="" flag="" start=""
  COMPREPLY=()
  if [ "$COMP_CWORD" -eq 1 ]; then
    COMPREPLY=($(compgen -W "{" ".join(known)}" -- "$word"))
    return
  fi
  case "$word" in
    =) flag="$before" word="" ;;
    --*=*) flag="${{word%%=*}}" start="$flag=" word="${{word#*=}}" ;;
    *) [ "$before" = "=" ] && flag="${{COMP_WORDS[COMP_CWORD-2]}}" ;;
  esac
  if [ -n "$flag" ]; then
    case "$command:$flag" in
{of_values}
    esac
    if [ -n "$values" ]; then
      COMPREPLY=($(compgen -P "$start" -W "$values" -- "$word"))
    else
      COMPREPLY=($(compgen -P "$start" -f -- "$word"))
    fi
    return
  fi
  case "$command" in
{of_commands}
  esac
  case "$word" in
    -*) COMPREPLY=($(compgen -S "=" -W "$flags" -- "$word")); compopt -o nospace 2>/dev/null ;;
    *) COMPREPLY=($(compgen -f -- "$word")); compopt -o filenames 2>/dev/null ;;
  esac
}}
complete -F _babyllm babyllm"""


def _fish(known: dict[str, dict[str, list[str]]]) -> str:
    lines = [f"complete -c babyllm -n __fish_use_subcommand -f -a '{' '.join(known)}'"]
    for name, flags in known.items():
        here = f"complete -c babyllm -n '__fish_seen_subcommand_from {name}'"
        lines += [
            f"{here} -l {flag} -r" + (f" -f -a '{' '.join(values)}'" if values else "")
            for flag, values in flags.items()
        ]
    return "\n".join(lines)
