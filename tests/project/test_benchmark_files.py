"""The benchmarks start without heavy libraries, and one command lists all of them."""

import json
import subprocess
import sys

from benchmarks import history, run

# What a benchmark imports only when it measures.
HEAVY = ("torch", "transformers", "datasketch", "rensa", "litgpt", "trl", "datasets", "httpx")
PROGRAMS = {**run.benchmarks(), "run": "benchmarks.run", "history": "benchmarks.history"}


HELP = f"""
import contextlib, io, json, runpy, sys, traceback
sys.modules.update(dict.fromkeys({HEAVY!r}))
printed = {{}}
for name, module in {PROGRAMS!r}.items():
    sys.argv = [name, "--help"]
    with contextlib.redirect_stdout(io.StringIO()) as out:
        try:
            runpy.run_module(module, run_name="__main__")
        except SystemExit as end:
            out.write("" if not end.code else f"status {{end.code}}")
        except Exception:
            out.write(traceback.format_exc())
    printed[name] = out.getvalue()
print(json.dumps(printed))
"""


def test_the_help_of_a_benchmark_needs_no_heavy_library() -> None:
    """`--help` of every benchmark works where no heavy library is installed, and its text names the command."""
    done = subprocess.run([sys.executable, "-c", HELP], capture_output=True, text=True, cwd=history.ROOT)
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    wrong = {name: printed[name] for name, module in PROGRAMS.items() if f"python -m {module}" not in printed[name]}
    wrong |= {name: text for name, text in printed.items() if "Traceback" in text or "status " in text[-12:]}
    assert wrong == {} and printed.keys() == PROGRAMS.keys()


def test_one_command_runs_every_benchmark() -> None:
    """Every file that can be run is listed under a name of its own, and so is what is left to people."""
    files = (history.ROOT / "benchmarks").glob("*/*.py")
    assert sorted(run.benchmarks()) == sorted(f.stem for f in files if "__main__" in f.read_text(encoding="utf-8"))
    assert set(run.BY_HAND) <= set(run.benchmarks())
