"""Draw docs/benchmarks.md from benchmarks/history.jsonl: the newest figure of each kind and those before it.

    python benchmarks/history.py
    python benchmarks/history.py --add FIGURE VALUE UNIT --machine TEXT --command "python benchmarks/..."

A line of the file is one measured figure: its date, the commit that was measured (or, of older figures, that recorded
it), the machine, the command, the figure's name, its value and its unit. Lines are only added.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import textwrap
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HISTORY, PAGE = ROOT / "benchmarks" / "history.jsonl", ROOT / "docs" / "benchmarks.md"
WIDTH = 120
HEAD = """# Benchmarks over time

Drawn by `make docs` from [benchmarks/history.jsonl](../benchmarks/history.jsonl); do not edit.
[benchmarks/README.md](../benchmarks/README.md) says what each benchmark measures and what was tried. Speeds of one
machine differ by half within hours, so compare ratios, or figures of one day.
"""


@dataclass(frozen=True)
class Figure:
    """One measured number.

    Attributes:
        date: Day of the measurement, ISO 8601.
        commit: Short hash of the commit.
        machine: Cores, processor and what else is worth knowing.
        command: Command that prints the figure.
        figure: Name of the figure, unique within the command's program.
        value: The number.
        unit: Its unit.
    """

    date: str
    commit: str
    machine: str
    command: str
    figure: str
    value: float
    unit: str

    @property
    def program(self) -> str:
        """What the command runs: the script, or the module after `-m`."""
        words = self.command.split()
        return next(
            (word for word in words if word.endswith(".py")), words[words.index("-m") + 1 if "-m" in words else 0]
        )


def read(path: Path = HISTORY) -> list[Figure]:
    """All figures, in the order of the file."""
    return [Figure(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def page(figures: list[Figure]) -> str:
    """The page: a section per program, with its command, its machine and a table."""
    programs = dict.fromkeys(figure.program for figure in figures)
    return "\n".join([HEAD, *("\n".join(_section(name, figures)) for name in sorted(programs))])


def _section(program: str, figures: list[Figure]) -> list[str]:
    mine = [figure for figure in figures if figure.program == program]
    by_name: dict[str, list[Figure]] = {}
    for figure in mine:
        by_name.setdefault(figure.figure, []).append(figure)
    newest = [of_name[-1] for of_name in by_name.values()]
    commands = [line for text in dict.fromkeys(f.command for f in newest) for line in _wrapped(text)]
    machines = [line for text in dict.fromkeys(f.machine for f in newest) for line in textwrap.wrap(f"- {text}", WIDTH)]
    rows = [
        f"| {of_name[-1].figure} | {_number(of_name[-1].value)} {of_name[-1].unit} | {of_name[-1].date} "
        f"| `{of_name[-1].commit}` | {', '.join(_number(f.value) for f in of_name[-2::-1]) or '-'} |"
        for of_name in by_name.values()
    ]
    table = ["| figure | newest | date | commit | before |", "|---|---|---|---|---|", *rows]
    return [f"## `{Path(program).name}`", "", "```bash", *commands, "```", "", *machines, "", *table, ""]


def _wrapped(command: str) -> list[str]:
    whole = re.sub(r'"[^"]*"', lambda quoted: quoted.group().replace(" ", "\0"), command)
    lines = textwrap.wrap(whole, WIDTH - 2, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)
    return [line.replace("\0", " ") for line in [*(f"{line} \\" for line in lines[:-1]), lines[-1]]]


def _number(value: float) -> str:
    return f"{value:,}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--add", nargs=3, metavar=("FIGURE", "VALUE", "UNIT"))
    parser.add_argument("--machine", help="cores, processor, and whether it was shared")
    parser.add_argument("--command", help="what printed the figure")
    flags = parser.parse_args()
    if flags.add:
        if not flags.machine or not flags.command:
            parser.error("--add needs --machine and --command")
        name, value, unit = flags.add
        commit = subprocess.run(
            ["git", "rev-parse", "--short=7", "HEAD"], capture_output=True, text=True, check=True, cwd=ROOT
        ).stdout.strip()
        figure = Figure(date.today().isoformat(), commit, flags.machine, flags.command, name, float(value), unit)
        with HISTORY.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(figure), ensure_ascii=False) + "\n")
    PAGE.write_text(page(read()), encoding="utf-8")


if __name__ == "__main__":
    main()
