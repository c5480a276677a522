"""The benchmarks start without heavy libraries, and one command lists all of them."""

import subprocess
import sys

import pytest

from benchmarks import history, run

# What a benchmark imports only when it measures.
HEAVY = ("torch", "transformers", "datasketch", "rensa", "litgpt", "trl", "datasets", "httpx")
PROGRAMS = {**run.benchmarks(), "run": "benchmarks.run", "history": "benchmarks.history"}


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_help_of_a_benchmark_needs_no_heavy_library(name: str) -> None:
    """`--help` of every benchmark works where no heavy library is installed, and its text names the command."""
    code = (
        f"import runpy, sys\nsys.modules.update(dict.fromkeys({HEAVY!r}))\nsys.argv = [{name!r}, '--help']\n"
        f"runpy.run_module({PROGRAMS[name]!r}, run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=history.ROOT)
    assert done.returncode == 0, done.stderr
    assert f"python -m {PROGRAMS[name]}" in done.stdout


def test_one_command_runs_every_benchmark() -> None:
    """Every file that can be run is listed under a name of its own, and so is what is left to people."""
    files = (history.ROOT / "benchmarks").glob("*/*.py")
    assert sorted(run.benchmarks()) == sorted(f.stem for f in files if "__main__" in f.read_text(encoding="utf-8"))
    assert set(run.BY_HAND) <= set(run.benchmarks())
