"""The report of a study: one table for each result, what the arms were trained on, and all runs.

results of runs -> compared arms -> Report -> terminal, report.json, report.html
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from babyllm.evaluate.statistics import Estimate
from babyllm.pipeline.report import Cell, Fact, Report, Table
from babyllm.studies.paired_arms import UNEQUAL, ArmComparison, compare_arms, unequal_tokens
from babyllm.studies.planned_runs import PlannedRun
from babyllm.studies.run_results import RunResult
from babyllm.studies.study import Study

Results = Mapping[PlannedRun, RunResult]
WARNING = "warning"


def study_report(
    study: Study, title: str, runs: Sequence[PlannedRun], results: Results, failed: Mapping[PlannedRun, str]
) -> Report:
    """The report of a study.

    Args:
        study: the study.
        title: first line of the report.
        runs: all runs.
        results: results of the finished runs.
        failed: the reason of each run that failed.
    """
    tables = [_result_table(study, name, results) for name in study.results]
    return Report(
        title,
        _facts(study, runs, results, failed),
        [*tables, _training_table(study, results), _runs_table(study, runs, results, failed)],
    )


def _facts(study: Study, runs: Sequence[PlannedRun], results: Results, failed: Mapping[PlannedRun, str]) -> list[Fact]:
    n_compared = len(study.arms) - 1
    facts: list[Fact] = [
        ("stage", study.stage),
        ("control", study.control),
        ("seeds", ", ".join(map(str, study.seeds))),
        ("differences", "arm - control, paired by seed; 95 % intervals of Student's t with n - 1 degrees of freedom"),
    ]
    if n_compared > 1:
        facts.append(
            (
                WARNING,
                f"{n_compared} arms are compared with one control, so one of them may look different by chance; "
                "verdicts count p after Holm's correction within each result",
            )
        )
    if len(study.seeds) == 1:
        facts.append((WARNING, "one seed: no interval, and no verdict; a second and third seed show what chance does"))
    if unequal := unequal_tokens(_tokens(study, results), study.control):
        facts.append(
            (
                WARNING,
                f"arms trained on other numbers of tokens than {study.control} (more than {UNEQUAL:.0%} apart): "
                f"{', '.join(unequal)}; only a random order or subset of equal tokens is a fair control",
            )
        )
    if failed or len(results) < len(runs):
        facts.append((WARNING, f"{len(runs) - len(results)} of {len(runs)} runs have no result"))
    return facts


def _tokens(study: Study, results: Results) -> dict[str, float]:
    return {arm: mean for arm in study.arms if (mean := _mean([r.tokens for r in _of(arm, results)])) is not None}


def _of(arm: str, results: Results) -> list[RunResult]:
    return [result for run, result in results.items() if run.arm == arm]


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


def values_by_arm(study: Study, name: str, results: Results) -> dict[str, dict[int, float]]:
    """The finite values of a result by arm and seed; every arm is there."""
    values: dict[str, dict[int, float]] = {arm: {} for arm in study.arms}
    for run, result in results.items():
        value = result.values[name]
        if value is not None:
            values[run.arm][run.seed] = value
    return values


def _result_table(study: Study, name: str, results: Results) -> Table:
    is_lower_better = study.results[name]
    compared = compare_arms(values_by_arm(study, name, results), study.control, is_lower_better)
    columns = [
        *("arm", "seeds", name, "s.e.", "difference", "s.e. of it", "95 % from", "to"),
        *("p", "p (Holm)", "smallest that could show", "verdict"),
    ]
    title = f"{name} on held-out data, {'lower' if is_lower_better else 'higher'} is better"
    return Table(title, columns, [_row(each) for each in compared])


def _row(compared: ArmComparison) -> list[Cell]:
    mean, difference = compared.mean, compared.difference
    low, high = difference.interval if difference else (math.nan, math.nan)
    return [
        compared.arm,
        mean.n if mean else 0,
        *_value_and_error(mean),
        *_value_and_error(difference),
        *map(_finite, (low, high, compared.p, compared.p_holm, compared.smallest)),
        compared.verdict,
    ]


def _value_and_error(estimate: Estimate | None) -> list[Cell]:
    return [_finite(estimate.value), _finite(estimate.error)] if estimate else [None, None]


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _training_table(study: Study, results: Results) -> Table:
    rows: list[list[Cell]] = []
    for arm in study.arms:
        of_arm = _of(arm, results)
        tokens, steps, seconds = (
            _mean([getattr(result, name) for result in of_arm]) for name in ("tokens", "steps", "seconds")
        )
        whole = [None if value is None else round(value) for value in (tokens, steps)]
        rows.append([arm, *whole, None if seconds is None else round(seconds, 1)])
    return Table("training, means over seeds", ["arm", "tokens", "steps", "seconds of steps"], rows)


def _runs_table(study: Study, runs: Sequence[PlannedRun], results: Results, failed: Mapping[PlannedRun, str]) -> Table:
    names = list(study.results)
    rows: list[list[Cell]] = []
    for run in runs:
        result = results.get(run)
        if result is None:
            rows.append([run.arm, run.seed, *([None] * (len(names) + 3)), failed.get(run, "not run")])
            continue
        values = [result.values[name] for name in names]
        state = "finished" if None not in values else "its result is not a finite number"
        rows.append([run.arm, run.seed, *values, result.tokens, result.step, round(result.seconds, 1), state])
    return Table("runs", ["arm", "seed", *names, "tokens", "step", "seconds of steps", "state"], rows)
