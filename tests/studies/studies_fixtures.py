"""Studies whose runs take no time: a program in place of babyllm, which writes what a run would."""

import sys
from pathlib import Path
from typing import Any

import yaml

from babyllm.runtime.signals import StopSignal
from babyllm.studies.planned_runs import planned_runs
from babyllm.studies.run_results import run_result
from babyllm.studies.running import run_all
from babyllm.studies.study import Study, read_study
from babyllm.studies.study_report import study_report

# A "run" whose loss follows from its learning rate and seed, and which fails or waits as its prompts say.
PROGRAM = """
import json, signal, sys, time, yaml
from pathlib import Path
from babyllm.run_directory import write_resume
stage, flag = sys.argv[1:3]
config = yaml.safe_load(Path(flag.removeprefix("--config=")).read_text(encoding="utf-8"))
out, steps, word = Path(config["run_dir"]), config["plan"]["steps"], config.get("prompts", [""])[0]
print("starting", stage, flush=True)
if word == "fail":
    print("babyllm: data.path: there is nothing", file=sys.stderr)
    sys.exit(1)
out.mkdir(parents=True, exist_ok=True)
begun = out / "begun"
stopped = []
if word == "wait" and not begun.exists():
    begun.write_text("")
    signal.signal(signal.SIGINT, lambda *_: stopped.append(1))
    (out / "ready").write_text("")
    while not stopped:
        time.sleep(0.01)
step = steps // 2 if stopped else steps
rate, seed = config["plan"]["peak_lr"], config["data"]["seed"]
loss = None if word == "nan" else 2 + rate + 0.01 * seed
tokens = step * config["data"].get("seq_len", 128) * 8
records = [{"step": 0, "time": 0, "val/all/loss": 5.0}, {"step": step, "time": 9, "tokens": tokens,
           "tokens_per_s": 1000.0, "loss": 2.0, "val/all/loss": loss, "val/all/accuracy": rate}]
(out / "metrics.jsonl").write_text("".join(json.dumps(record) + "\\n" for record in records))
directory = out / f"step_{step:08d}"
directory.mkdir(exist_ok=True)
write_resume(directory, {"step": step, "bad_evaluations": 0, "sha256": {}})
"""


def write_program(folder: Path) -> tuple[str, ...]:
    """The command of a program that takes the flags of a run and ends at once."""
    file = folder / "program.py"
    file.write_text(PROGRAM, encoding="utf-8")
    return (sys.executable, str(file))


def study_of(folder: Path, **keys: Any) -> Study:
    """A study of two arms and two seeds, or with other keys."""
    value = {
        "out": str(folder / "study"),
        "base": {"plan": {"steps": 10}},
        "seeds": [1, 2],
        "arms": {"slow": {"plan.peak_lr": 0.1}, "fast": {"plan.peak_lr": 0.4}},
        "results": ["all/loss"],
    }
    file = folder / "study.yaml"
    file.write_text(yaml.safe_dump(value | keys, sort_keys=False), encoding="utf-8")
    return read_study(file)


def train(study: Study, program: tuple[str, ...], stop: StopSignal | None = None, **options: Any) -> dict[str, Any]:
    """Run a study and return its report as a JSON value."""
    runs = planned_runs(study, "study.yaml")
    failed = run_all(study, runs, stop or StopSignal(), program=program, **options)
    results = {run: run_result(run.directory, study.results) for run in runs if run not in failed}
    return study_report(study, "a study", runs, results, failed).to_json()


def column(report: dict[str, Any], name: str, table: int = 0) -> dict[str, Any]:
    """The cells of a column of a table by the first cell of their row."""
    found = report["tables"][table]
    return {row[0]: row[found["columns"].index(name)] for row in found["rows"]}


def warnings(report: dict[str, Any]) -> list[str]:
    """The warnings of a report."""
    return [text for name, text in report["facts"] if name == "warning"]
