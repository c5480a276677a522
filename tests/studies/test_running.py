"""The runs of a study as processes: finished once, resumed, stopped, changed, failed; and what the table says."""

import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from studies_fixtures import column, study_of, train, warnings

from babyllm.errors import UserError
from babyllm.runtime.signals import StopSignal
from babyllm.studies.planned_runs import is_finished, made_directory, planned_runs, require_same
from babyllm.studies.running import Stopped, run_before
from babyllm.studies.study import Study

Program = tuple[str, ...]


def logs(study: Study) -> dict[str, list[str]]:
    """What each run has printed."""
    return {run.label: run.log.read_text(encoding="utf-8").splitlines() for run in planned_runs(study, "S")}


def test_a_study_is_one_table(tmp_path: Path, program: Program) -> None:
    """The report has means, paired differences and verdicts, what was trained on, and every run."""
    report = train(study_of(tmp_path), program)
    assert column(report, "all/loss") == pytest.approx({"slow": 2.115, "fast": 2.415})
    assert column(report, "difference") == {"slow": None, "fast": pytest.approx(0.3)}
    assert column(report, "verdict") == {"slow": "control", "fast": "worse"}
    assert column(report, "tokens", 1) == {"slow": 10240, "fast": 10240}
    assert column(report, "seconds of steps", 1) == {"slow": 10.2, "fast": 10.2}
    assert [row[:2] for row in report["tables"][2]["rows"]] == [["slow", 1], ["fast", 1], ["slow", 2], ["fast", 2]]
    assert warnings(report) == []


def test_a_finished_run_is_not_run_again(tmp_path: Path, program: Program) -> None:
    """A second start runs nothing; an added seed or arm runs alone, beside what is there."""
    train(study_of(tmp_path), program)
    train(study_of(tmp_path), program, jobs=2)
    more = {"slow": {"plan.peak_lr": 0.1}, "fast": {"plan.peak_lr": 0.4}, "third": {"plan.peak_lr": 0.2}}
    study = study_of(tmp_path, arms=more, seeds=[1, 2, 3])
    report = train(study, program, jobs=3)
    assert all(lines == ["starting pretrain"] for lines in logs(study).values()) and len(logs(study)) == 9
    assert column(report, "seeds") == {"slow": 3, "fast": 3, "third": 3}
    assert "2 arms are compared with one control" in warnings(report)[0]


def test_a_run_whose_directory_is_gone_is_run_again(tmp_path: Path, program: Program) -> None:
    """The mark of a finished run counts only with the step that it names."""
    study = study_of(tmp_path)
    train(study, program)
    run = planned_runs(study, "S")[0]
    (run.directory / "step_00000010").rename(tmp_path / "away")
    assert not is_finished(run)
    train(study, program)
    assert is_finished(run) and logs(study)[run.label] == ["starting pretrain"] * 2


def test_changed_flags_of_a_run_are_refused(tmp_path: Path, program: Program) -> None:
    """A finished run whose flags have changed is one error, with the keys and both values, before anything runs."""
    train(study_of(tmp_path), program)
    changed = study_of(tmp_path, base={"plan": {"steps": 20}, "data.mix": {"zh": 1.0, "en": 2.0}})
    with pytest.raises(UserError) as error:
        for run in planned_runs(changed, "S"):
            require_same(run)
    message = str(error.value)
    assert "plan.steps: 10 -> 20" in message and "data.mix.zh: (absent) -> 1.0" in message
    assert "seed_1: was run with other flags" in message and "\n" not in message


@pytest.mark.parametrize("jobs", [1, 3])
def test_a_failed_run_ends_the_study(tmp_path: Path, program: Program, jobs: int) -> None:
    """The error has the arm, the seed, the run's own last line and the log; runs in progress are stopped."""
    study = study_of(tmp_path, arms={"wait": {"prompts": ["wait"]}, "bad": {"prompts": ["fail"]}, "good": {}})
    if jobs == 1:
        study = study_of(tmp_path, arms={"bad": {"prompts": ["fail"]}, "good": {}})
    base = {"plan.peak_lr": 0.1, "plan.steps": 10}
    study = study_of(tmp_path, base=base, arms=study.arms)
    with pytest.raises(UserError) as error:
        train(study, program, jobs=jobs)
    log = study.out / "bad" / "seed_1.log"
    assert str(error.value) == f"bad, seed 1: failed: data.path: there is nothing; its output is in {log}"
    assert not any(is_finished(run) for run in planned_runs(study, "S") if run.arm == "wait")
    assert (study.out / "good" / "seed_2.log").exists() is False


def test_keep_going_reports_what_is_missing(tmp_path: Path, program: Program) -> None:
    """With keep_going a failed run is missing from the table, and the table says so."""
    arms = {"good": {"plan.peak_lr": 0.1}, "bad": {"plan.peak_lr": 0.1, "prompts": ["fail"]}}
    report = train(study_of(tmp_path, arms=arms), program, keep_going=True)
    assert column(report, "verdict") == {"good": "control", "bad": "no result"}
    assert [row[-1] for row in report["tables"][2]["rows"]] == ["finished", "data.path: there is nothing"] * 2
    assert "2 of 4 runs have no result" in warnings(report)


def test_a_result_that_is_not_finite_is_missing(tmp_path: Path, program: Program) -> None:
    """A run that diverged has no result; the difference is that of the other seeds."""
    arms = {"good": {"plan.peak_lr": 0.1}, "bad": {"plan.peak_lr": 0.1, "prompts": ["nan"]}}
    report = train(study_of(tmp_path, arms=arms), program)
    assert column(report, "seeds") == {"good": 2, "bad": 0}
    assert report["tables"][2]["rows"][1][-1] == "its result is not a finite number"


def test_an_unknown_result_ends_the_study_at_its_first_run(tmp_path: Path, program: Program) -> None:
    """A result that runs do not have is reported after the first run, with those that they have."""
    study = study_of(tmp_path, results=["all/bpb"])
    with pytest.raises(UserError, match=r"has no result 'all/bpb' on held-out data; there are all/accuracy, all/loss"):
        train(study, program)
    assert not (study.out / "fast").exists()


def test_higher_values_may_be_better(tmp_path: Path, program: Program) -> None:
    """An accuracy that rises is better; each result has a table of its own."""
    study = study_of(tmp_path, results=["all/loss", "all/accuracy"])
    report = train(study, program)
    assert column(report, "verdict", 0)["fast"] == "worse" and column(report, "verdict", 1)["fast"] == "better"


def test_unequal_tokens_are_warned_of(tmp_path: Path, program: Program) -> None:
    """Arms that were trained on other numbers of tokens than the control are named."""
    arms = {"short": {"plan.peak_lr": 0.1}, "long": {"plan.peak_lr": 0.1, "data.seq_len": 64}}
    found = warnings(train(study_of(tmp_path, arms=arms), program))
    assert len(found) == 1 and "other numbers of tokens than short (more than 1% apart): long" in found[0]


def test_one_seed_has_no_interval(tmp_path: Path, program: Program) -> None:
    """With one seed the table has differences alone, and a warning."""
    report = train(study_of(tmp_path, seeds=[1]), program)
    assert column(report, "95 % from") == column(report, "p") == {"slow": None, "fast": None}
    assert column(report, "verdict") == {"slow": "control", "fast": "one seed: cannot say"}
    assert warnings(report)[0].startswith("one seed: no interval")


def test_a_stop_signal_is_passed_on_and_the_next_start_goes_on(tmp_path: Path, program: Program) -> None:
    """Runs in progress save and end, no further one starts, and the same study finishes later."""
    arms = {name: {"plan.peak_lr": 0.1, "prompts": ["wait"]} for name in "abc"}
    study, stop = study_of(tmp_path, arms=arms, seeds=[1]), StopSignal()
    ready = [study.out / name / "seed_1" / "ready" for name in "ab"]

    def set_when_ready() -> None:
        while not all(file.exists() for file in ready):
            time.sleep(0.02)
        stop.is_set = True

    waiting = threading.Thread(target=set_when_ready)
    waiting.start()
    with pytest.raises(Stopped):
        train(study, program, stop, jobs=2)
    waiting.join()
    a, b, c = planned_runs(study, "S")
    assert [(run.directory / "step_00000005").is_dir() for run in (a, b, c)] == [True, True, False]
    assert not any(map(is_finished, (a, b, c)))
    (c.directory).mkdir(parents=True)
    (c.directory / "begun").write_text("", encoding="utf-8")
    train(study, program, jobs=3)
    assert all(map(is_finished, (a, b, c)))


def test_a_run_that_others_have_stopped_is_not_finished(tmp_path: Path, program: Program) -> None:
    """A run that ends well before its last step, stopped from elsewhere, ends the study with an advice."""
    study = study_of(tmp_path, arms={"a": {"plan.peak_lr": 0.1, "prompts": ["wait"]}, "b": {}}, seeds=[1])
    half = tmp_path / "half.py"
    text = Path(program[1]).read_text(encoding="utf-8").replace("step = steps // 2 if stopped else steps", "step = 3")
    half.write_text(text.replace("while not stopped", "while False"), encoding="utf-8")
    with pytest.raises(UserError, match="was stopped before its step 10; the same command goes on from there"):
        train(study, (sys.executable, str(half)))
    assert not is_finished(planned_runs(study, "S")[0])


MAKE = f"{sys.executable} -c \"import sys, pathlib; pathlib.Path(sys.argv[1], sys.argv[2]).write_text('x')\""


def before(tmp_path: Path, **keys: Any) -> Study:
    arms = {"made": {"data.path": "{out}/a", "data.tokenizer": "{base}/b"}, "plain": {}}
    commands = {"made": [f"{MAKE} {{out}} a"], "base": [f"{MAKE} {{base}} b"]}
    return study_of(tmp_path, **({"arms": arms, "before": commands} | keys))


def test_commands_before_a_study_run_once(tmp_path: Path) -> None:
    """Those of base come first; their directories replace {out} and {base} in commands and flags."""
    study = before(tmp_path)
    run_before(study, StopSignal())
    made, shared = made_directory(study, "made"), made_directory(study, "base")
    values = planned_runs(study, "S")[0].values
    assert (values["data.path"], values["data.tokenizer"]) == (f"{made}/a", f"{shared}/b")
    (made / "a").unlink()
    run_before(study, StopSignal())
    assert not (made / "a").exists() and (shared / "b").exists(), "a command that has succeeded is not run again"
    with pytest.raises(UserError, match="was made by other commands; delete it"):
        run_before(before(tmp_path, before={"made": ["true"], "base": [f"{MAKE} {{base}} b"]}), StopSignal())


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (f'{sys.executable} -c "print(1); print(2); raise SystemExit(3)"', "failed: 2; its output is in"),
        ("/nowhere/program", "/nowhere/program: cannot be started"),
        ("echo 'x", "is not a command (No closing quotation)"),
        ("babyllm dedup", "failed: usage: babyllm dedup"),
    ],
)
def test_a_failed_command_before_a_study_is_one_line(tmp_path: Path, command: str, message: str) -> None:
    """The error has the command, its last line and its log; `babyllm` is that of this Python."""
    with pytest.raises(UserError) as error:
        run_before(before(tmp_path, before={"base": ["true", command], "made": ["true"]}), StopSignal())
    assert message in str(error.value)
    note = json.loads((tmp_path / "study" / "base" / "before.json").read_text(encoding="utf-8"))
    assert note["commands"] == ["true"]
