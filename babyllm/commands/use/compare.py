"""Run the arms of a study with several seeds each, and print one table with differences, their errors and verdicts.

babyllm compare configs/studies/order.yaml; the same command goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from babyllm.commands import note
from babyllm.config.values import Few
from babyllm.errors import UserError

if TYPE_CHECKING:
    from babyllm.studies.planned_runs import PlannedRun
    from babyllm.studies.run_results import RunResult
    from babyllm.studies.study import Study

ARGUMENTS = "STUDY.yaml [OUT]"
LOCK = ".study.lock"


@dataclass(frozen=True)
class Flags:
    """Flags of `babyllm compare`.

    Attributes:
        jobs: largest number of runs at once; with more than one, give base the flag runtime.processes=1.
        keep_going: whether the other runs go on after one has failed; the table then lacks it.
        table: whether to print and write the table of the runs that are finished, without running any.
    """

    jobs: Few = 1
    keep_going: bool = False
    table: bool = False


def run(flags: Flags, study_file: str, out: str | None = None) -> None:
    """Run what is not finished, then print the table and write it to OUT.

    Raises:
        UserError: the study is malformed, a run failed, or OUT cannot be written.
    """
    from babyllm.runtime.signals import StopSignal
    from babyllm.studies.planned_runs import check_arms, planned_runs, require_same
    from babyllm.studies.running import Stopped, run_all, run_before
    from babyllm.studies.study import read_study

    study = read_study(Path(study_file), out)
    check_arms(study, study_file)
    stop = StopSignal()
    with _locked(study.out), stop.installed():
        try:
            if not flags.table:
                run_before(study, stop)
            runs = planned_runs(study, study_file)
            for each in runs:
                require_same(each)
            if flags.jobs > 1 and any("runtime.processes" not in each.values for each in runs):
                note("each run may take all cores; give base the flag runtime.processes=1 for several runs at once")
            failed = {} if flags.table else run_all(study, runs, stop, jobs=flags.jobs, keep_going=flags.keep_going)
        except Stopped:
            print(f"stopped; the same command goes on from here, and --table shows what is finished in {study.out}")
            raise SystemExit(130) from None
        _show(study, study_file, runs, failed)


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Hold the lock of a study's directory, which is made if it is missing."""
    from babyllm.files import locked

    try:
        if out.is_dir() and not (out / LOCK).exists() and any(out.iterdir()):
            raise UserError(f"{out}: has files that are not of a study; choose another OUT, new or empty")
        out.mkdir(parents=True, exist_ok=True)
        with locked(out / LOCK, 0) as is_free:
            if not is_free:
                raise UserError(f"{out}: another process is running this study; wait for it or choose another OUT")
            yield
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror}); choose another OUT") from error


def _show(study: Study, study_file: str, runs: Sequence[PlannedRun], failed: Mapping[PlannedRun, str]) -> None:
    """Print and write the table of all runs that are finished.

    Raises:
        UserError: no run is finished.
    """
    from babyllm.pipeline.report import print_report
    from babyllm.pipeline.report_html import write_report
    from babyllm.studies.planned_runs import is_finished
    from babyllm.studies.run_results import run_result
    from babyllm.studies.study_curves import CURVES_FILE, plot_study
    from babyllm.studies.study_report import study_report

    results: dict[PlannedRun, RunResult] = {
        each: run_result(each.directory, study.results) for each in runs if each not in failed and is_finished(each)
    }
    if not results:
        raise UserError(f"{study.out}: no run is finished, so there is nothing to compare")
    report = study_report(study, f"study: {study_file}", runs, results, failed)
    write_report(study.out, report)
    plot_study(list(results), list(study.results), study.out / CURVES_FILE)
    print()
    print_report(report)
    print(f"\n{study.out / 'report.html'} shows this table, {study.out / CURVES_FILE} the curves")
