"""Draw docs/en/reference/benchmarks.md from benchmarks/history.jsonl: the newest figure of each kind and older ones.

    python -m benchmarks.history
    python -m benchmarks.history --add FIGURE VALUE UNIT --command "python train_pretrain.py" [--machine TEXT]

A line of the file is one measured figure: its date, the commit that was measured (or, of older figures, that recorded
it), the machine, the command, the figure's name, its value and its unit. Lines are only added. `benchmarks.run` adds
the figures of benchmarks; `--add` is for what a person measured with another command.
"""

from __future__ import annotations

import json
import re
import subprocess
import textwrap
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path

from benchmarks import figures

ROOT = Path(__file__).resolve().parents[1]
HISTORY = ROOT / "benchmarks" / "history.jsonl"
PAGES = {language: ROOT / "docs" / language / "reference" / "benchmarks.md" for language in ("en", "zh")}
WIDTH = 120
HEADS = {
    "en": """# Benchmarks over time

Drawn by `make docs` from [benchmarks/history.jsonl](../../../benchmarks/history.jsonl); do not edit.
[benchmarks/README.md](../../../benchmarks/README.md) says what each benchmark measures and what was tried. Speeds of
one machine differ by half within hours, so compare ratios, or figures of one day.
""",
    "zh": """# 历次基准测量

由 `make docs` 根据 [benchmarks/history.jsonl](../../../benchmarks/history.jsonl) 画出，请勿手改；指标名称保留英文。
每个基准测什么、试过什么，见 [benchmarks/README.md](../../../benchmarks/README.md)。
同一台机器的速度几小时内可以相差一半，所以请比较比值，或同一天的数字。
""",
}
COLUMNS = {"en": "| figure | newest | date | commit | before |", "zh": "| 指标 | 最新 | 日期 | 提交 | 以前 |"}


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
        """What the command runs: the file's name of a script or a benchmark, or another module after `-m`."""
        words = self.command.split()
        scripts = [Path(word).name for word in words if word.endswith(".py")]
        if scripts:
            return scripts[0]
        module = words[words.index("-m") + 1 if "-m" in words else 0]
        return f"{module.rpartition('.')[2]}.py" if module.startswith("benchmarks.") else module


def read(path: Path = HISTORY) -> list[Figure]:
    """All figures, in the order of the file."""
    return [Figure(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def add(measured: Iterable[figures.Figure], command: str, machine: str | None = None) -> None:
    """Append figures measured today, at the commit that is checked out.

    Args:
        measured: names, values and units.
        command: what printed the figures.
        machine: cores, processor and whether it was shared; None describes this machine.
    """
    git = ["git", "rev-parse", "--short=7", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True, check=True, cwd=ROOT).stdout.strip()
    where = machine or this_machine()
    with HISTORY.open("a", encoding="utf-8") as file:
        for figure in measured:
            line = Figure(date.today().isoformat(), commit, where, command, *figure)
            file.write(json.dumps(asdict(line), ensure_ascii=False) + "\n")


def this_machine() -> str:
    """The cores this process may use, the processor's name, and what it multiplies natively."""
    import torch

    from babyllm.runtime.machine import cores, cpu_model, multiplies_bfloat16

    products = "16-bit products" if multiplies_bfloat16() else "no 16-bit products"
    name = " ".join((cpu_model() or "unknown processor").split())
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    n = f"{cores()} core{'s' * (cores() > 1)}"
    return ", ".join([n, name, torch.backends.cpu.get_cpu_capability(), products, *gpus])


def page(history: list[Figure], language: str) -> str:
    """The page in "en" or "zh": a section per program, with its command, its machine and a table."""
    programs = dict.fromkeys(figure.program for figure in history)
    sections = ("\n".join(_section(name, history, COLUMNS[language])) for name in sorted(programs))
    return "\n".join([HEADS[language], *sections])


def _section(program: str, history: list[Figure], columns: str) -> list[str]:
    mine = [figure for figure in history if figure.program == program]
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
    table = [columns, "|---|---|---|---|---|", *rows]
    return [f"## `{program}`", "", "```bash", *commands, "```", "", *machines, "", *table, ""]


def _wrapped(command: str) -> list[str]:
    whole = re.sub(r'"[^"]*"', lambda quoted: quoted.group().replace(" ", "\0"), command)
    lines = textwrap.wrap(whole, WIDTH - 2, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)
    return [line.replace("\0", " ") for line in [*(f"{line} \\" for line in lines[:-1]), lines[-1]]]


def _number(value: float) -> str:
    return f"{value:,}"


def main() -> None:
    parser = figures.parser(__doc__)
    parser.add_argument("--add", nargs=3, metavar=("FIGURE", "VALUE", "UNIT"))
    parser.add_argument("--command", help="what printed the figure")
    parser.add_argument("--machine", help="cores, processor, and whether it was shared; default: this machine")
    flags = parser.parse_args()
    if flags.add:
        if not flags.command:
            parser.error("--add needs --command")
        name, value, unit = flags.add
        add([figures.Figure(name, float(value), unit)], flags.command, flags.machine)
    draw()


def draw() -> None:
    """Draw the page from the file, in each language."""
    for language, path in PAGES.items():
        path.write_text(page(read(), language), encoding="utf-8")


if __name__ == "__main__":
    main()
