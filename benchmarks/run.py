"""Run the benchmarks, all or those named, and record their figures.

    python -m benchmarks.run [NAME ...] [--quick]

Each benchmark is a process of its own with its default settings: `python -m benchmarks.FOLDER.NAME`. What it lacks,
such as a peer that is not installed, it leaves out with a note. Figures are added to benchmarks/history.jsonl, and
docs/en/reference/benchmarks.md is drawn from it; with `--quick` nothing is recorded. Leave the machine alone meanwhile.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import figures, history

# What needs something that only a person can choose, and what that is.
BY_HAND = {
    "recipes": "a file of recipes",
    "crowd": "a running server",
    "load": "a running server",
    "joined_turns": "a classifier",
    "machine_table": "no measurement: `make docs` draws it",
    "reference_curve": "a finished run",
}


def benchmarks() -> dict[str, str]:
    """The modules that can be run, by name, in the order of folders and files."""
    files = sorted((history.ROOT / "benchmarks").glob("*/*.py"))
    runnable = [file for file in files if "\ndef main(" in file.read_text(encoding="utf-8")]
    return {file.stem: f"benchmarks.{file.parent.name}.{file.stem}" for file in runnable}


def main() -> None:
    found = benchmarks()
    parser = figures.parser(__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"default: {', '.join(found)}")
    parser.add_argument("--quick", action="store_true", help="only show that they work, in a minute or two each")
    args = parser.parse_args()
    if unknown := [name for name in args.names if name not in found]:
        parser.error(f"unknown: {', '.join(unknown)}; choose from {', '.join(found)}")
    names, failed = args.names or list(found), []
    for i, name in enumerate(names, 1):
        print(f"\n[{i}/{len(names)}] {name}", flush=True)
        if name in BY_HAND:
            print(f"skipped: it needs {BY_HAND[name]}; see `python -m {found[name]} --help`", flush=True)
        elif not run(found[name], args.quick):
            failed.append(name)
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


def run(module: str, is_quick: bool) -> bool:
    """Run a benchmark and record its figures; returns whether it succeeded."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "figures.json")
        command = [sys.executable, "-m", module, f"--json={out}", *(["--quick"] if is_quick else [])]
        status = subprocess.run(command, cwd=history.ROOT).returncode
        text = out.read_text(encoding="utf-8") if out.exists() else "[]"
    measured = [figures.Figure(**figure) for figure in json.loads(text)]
    print(f"{len(measured)} figures in {time.monotonic() - began:,.0f} s" + f", status {status}" * bool(status))
    if measured and not is_quick:
        history.add(measured, f"python -m {module}")
        history.draw()
    return status == 0


if __name__ == "__main__":
    main()
