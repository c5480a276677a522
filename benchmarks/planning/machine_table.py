"""The table "your machine, what to train in which time", drawn from `babyllm plan` into the pages that show it.

    python -m benchmarks.planning.machine_table            # rewrites the tables
    python -m benchmarks.planning.machine_table --check    # says which are old, and ends with status 1

Each cell is the time of pretraining on 20 tokens a parameter (Hoffmann et al. 2022) with the largest micro-batch that
fits. Nothing here was measured: the plan's assumptions hold, which docs/en/training/plan.md lists.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from benchmarks import figures

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("README.md", "README.zh.md", "docs/en/start/your-machine.md", "docs/zh/start/your-machine.md")
BEGIN, END = "<!-- drawn by python -m benchmarks.planning.machine_table -->\n", "<!-- end -->"
MACHINES = {
    "RTX 3060 12 GB": ("RTX 3060", 1),
    "RTX 4060 Ti 8 GB": ("RTX 4060 Ti", 1),
    "RTX 4090 24 GB": ("RTX 4090", 1),
    "A100 80 GB": ("A100 80GB", 1),
    "8 x RTX 4090": ("RTX 4090", 8),
    "8 x A100 80 GB": ("A100 80GB", 8),
}
PRESETS = ("92m", "160m", "218m", "1b")
TOKENS_PER_PARAMETER = 20
_WORDS = {
    "en": {"head": "machine", "no": "does not fit", "tokens": "tokens", "s": "min", "h": "h", "d": "days"},
    "zh": {"head": "机器", "no": "放不下", "tokens": "token 数", "s": "分钟", "h": "小时", "d": "天"},
}


def plan(preset: str, gpu: str, processes: int) -> dict[str, object]:
    """What `babyllm plan --json` says of one preset on one machine."""
    flags = [f"--model.preset={preset}", f"--device={gpu}", f"--processes={processes}", "--json=true"]
    flags += ["--parallel.shard=zero2"] if processes > 1 else []
    done = subprocess.run(
        [sys.executable, "-m", "babyllm", "plan", *flags], check=True, capture_output=True, text=True, cwd=ROOT
    )
    result: dict[str, object] = json.loads(done.stdout)
    return result


def time_of(seconds: float, words: dict[str, str]) -> str:
    """A time in the unit that suits it, with two digits."""
    for unit, size in (("d", 86_400.0), ("h", 3_600.0), ("s", 60.0)):
        if seconds >= 2 * size or unit == "s":
            amount = seconds / size
            return f"{amount:.0f} {words[unit]}" if amount >= 10 else f"{amount:.1f} {words[unit]}"
    raise AssertionError("minutes are always small enough")


def table(language: str) -> str:
    """The table in Markdown."""
    words = _WORDS[language]
    plans = {(name, preset): plan(preset, *machine) for name, machine in MACHINES.items() for preset in PRESETS}
    sizes = {preset: _number(plans[next(iter(MACHINES)), preset], "parameters", "total") for preset in PRESETS}
    rows = [
        [words["head"], *(f"`{preset}`" for preset in PRESETS)],
        ["---"] * (1 + len(PRESETS)),
        [words["tokens"], *(_tokens(TOKENS_PER_PARAMETER * sizes[preset], language) for preset in PRESETS)],
    ]
    for name in MACHINES:
        cells = []
        for preset in PRESETS:
            found = plans[name, preset]
            fits = found["fit"]
            assert isinstance(fits, dict)
            seconds = TOKENS_PER_PARAMETER * sizes[preset] / _number(found, "speed", "tokens_per_s")
            cells.append(time_of(seconds, words) if fits["fits"] else words["no"])
        rows.append([name, *cells])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _tokens(n: float, language: str) -> str:
    if language == "zh":
        return f"{n / 1e8:.3g} 亿"
    return f"{n / 1e9:.3g} B" if n >= 1e9 else f"{n / 1e6:.3g} M"


def _number(found: dict[str, object], *keys: str) -> float:
    value: object = found
    for key in keys:
        assert isinstance(value, dict)
        value = value[key]
    assert isinstance(value, int | float)
    return float(value)


def main() -> None:
    """Redraw the tables, or check them."""
    flags = figures.parser(__doc__)
    flags.add_argument("--check", action="store_true", help="say which tables are old, and change nothing")
    only_checks = flags.parse_args().check
    drawn = {language: table(language) for language in _WORDS}
    old = []
    for name in PAGES:
        path = ROOT / name
        before, _, rest = path.read_text(encoding="utf-8").partition(BEGIN)
        drawn_before, _, after = rest.partition(END)
        new = drawn["zh" if "zh" in name else "en"]
        if new != drawn_before:
            old.append(name)
            if not only_checks:
                path.write_text(f"{before}{BEGIN}{new}{END}{after}", encoding="utf-8")
    print(f"old: {', '.join(old)}" if old else "every table is what the plan says")
    if old and only_checks:
        sys.exit(1)


if __name__ == "__main__":
    main()
