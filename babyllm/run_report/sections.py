"""The sections of a run's report as plain tables and facts; every text is English, which the page translates.

RunRecord, RunRecords of others -> headline, held_out, data, skipped, cost, comparison, environment
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from babyllm.model.config import flops_per_token, parameter_counts
from babyllm.pipeline.report import Cell, Fact, Table
from babyllm.progress import format_duration
from babyllm.run_report.metric_curves import Result
from babyllm.run_report.run_record import RunRecord
from babyllm.run_report.run_texts import cut

MAX_ROWS = 200
"""Largest number of rows of a table of the report."""
CELL = 300
"""Largest number of characters of a cell."""
BEST_KNOWN = ("loss", "bpb", "accuracy", "reward")
MACHINE = ("cpu", "cores", "gpus", "world_size", "threads", "platform", "python", "torch", "cuda", "babyllm", "commit")


def headline(run: RunRecord) -> list[Fact]:
    """The figures that sum a run up."""
    last = run.metrics.last
    facts: list[Fact] = [("state", state_of(run)), ("stage", run.stage or None)]
    facts += [("parameters", parameters(run)), ("tokens read", _whole(last.get("tokens")))]
    if "rollout/reward" in last:
        facts.append(("reward of the last answers", last["rollout/reward"]))
    elif "loss" in last:
        facts.append(("training loss", last["loss"]))
    for kind in BEST_KNOWN:
        if result := run.metrics.held_out.get(f"all/{kind}"):
            facts.append((f"held-out {kind}", with_error(result)))
    facts.append(("time in steps", _duration(run.metrics.seconds)))
    return [(name, value) for name, value in facts if value is not None]


def state_of(run: RunRecord) -> str:
    """Whether a run has finished, was stopped, or has not ended, and at which step."""
    total, step = run.messages.total_steps, run.metrics.step
    if total is not None and step >= total:
        return "finished"
    if run.messages.end is not None and run.messages.end.startswith("ended by"):
        return "ended by an error"
    if run.messages.end is not None:
        return "finished" if run.messages.end.startswith("finished") else "stopped"
    return "not ended: it is running or was killed" if total is not None else "unknown"


def parameters(run: RunRecord) -> int | None:
    """The number of parameters of the model's shape; None if it is unknown."""
    return sum(parameter_counts(run.shape).values()) if run.shape else None


def with_error(result: Result) -> str:
    """A result and its standard error."""
    error = "" if result.error is None else f" ± {result.error:.2g}"
    return f"{result.value:.4g}{error}"


def held_out(run: RunRecord) -> list[Table]:
    """The results on held-out data by domain or task: the last ones, and the best where a name says what is better."""
    rows: list[list[Cell]] = []
    for name, last in run.metrics.held_out.items():
        domain, _, measure = name.rpartition("/")
        best = run.metrics.best.get(name) if _is_known(measure) else None
        of_best: list[Cell] = [best.value, best.step] if best else [None, None]
        rows.append([_short(domain or name), _short(measure), last.value, last.error, last.step, *of_best])
    columns = ["domain or task", "measure", "last", "s.e.", "step", "best", "step of the best"]
    rows.sort(key=lambda row: not str(row[0]).startswith("all"))
    return [_table("", columns, rows)] if rows else []


def _is_known(measure: str) -> bool:
    return measure in BEST_KNOWN or measure.startswith("acc")


def skipped(run: RunRecord) -> list[Fact]:
    """What a run did not take: steps, records, lines."""
    last, memory = run.metrics.last, run.resume.get("memory")
    facts: list[Fact] = [("steps skipped", _whole(last.get("skipped")))]
    facts.append(("losses that were not finite", run.metrics.nulls or None))
    facts.append(("times gone back", _whole(memory.get("rollbacks")) if isinstance(memory, dict) else None))
    facts.append(("times that micro-batches were halved", _whole(run.resume.get("cuts")) or None))
    facts.append(("damaged lines in metrics.jsonl", run.metrics.damaged or None))
    facts.append(("damaged lines in samples.jsonl", run.samples.damaged or None))
    facts.append(("metrics beyond those that are kept", run.metrics.more_names or None))
    return [(name, value) for name, value in facts if value is not None]


def cost(run: RunRecord) -> list[Fact]:
    """What a run took: time, device hours, tokens, floating-point operations, memory."""
    metrics, last = run.metrics, run.metrics.last
    n = run.environment.get("world_size")
    n_devices = n if isinstance(n, int) and n > 0 else 1
    gpus = run.environment.get("gpus")
    device = "GPU hours" if isinstance(gpus, list) and gpus else "processor hours, one per process"
    known = metrics.seconds > 0
    facts: list[Fact] = [
        ("time in steps", _duration(metrics.seconds)),
        ("from the first record to the last, pauses included", _duration(metrics.wall)),
        (device, f"{metrics.seconds * n_devices / 3600:.3g}" if known else None),
        ("waiting for data, share", metrics.waited / metrics.seconds if known else None),
        ("tokens read", _whole(last.get("tokens"))),
        ("tokens per second, mean", _whole(last["tokens"] / metrics.seconds) if known and "tokens" in last else None),
        ("floating-point operations, estimated", _flops(run)),
        ("model FLOPs utilisation, share", metrics.mfu_seconds / metrics.seconds if known else None),
        ("peak memory of a process, GB", round(last["memory_bytes"] / 1e9, 2) if last.get("memory_bytes") else None),
        ("energy", "not measured"),
    ]
    return [(name, value) for name, value in facts if value is not None]


def _flops(run: RunRecord) -> str | None:
    """The floating-point operations of the tokens read, by the shape of the model."""
    tokens, seq_len = run.metrics.last.get("tokens"), run.setting("data", "seq_len")
    if run.shape is None or not tokens or not isinstance(seq_len, int):
        return None
    return f"{tokens * flops_per_token(run.shape, seq_len):.3g}"


def environment(run: RunRecord) -> list[Fact]:
    """Versions and the machine."""
    facts: list[Fact] = []
    for name in MACHINE:
        value = run.environment.get(name)
        if value not in (None, "", []):
            facts.append((name, _short(", ".join(map(str, value)) if isinstance(value, list) else str(value))))
    return facts


def data(run: RunRecord) -> list[Table]:
    """The data card: sizes by domain or task, and the data sets with licence and source."""
    tables: list[Table] = []
    if run.data is not None:
        tables.append(_table("size by domain or task", run.data.columns, run.data.rows))
    rows: list[list[Cell]] = [
        [
            _short(one.title),
            one.records,
            sum(one.train.values()),
            sum(one.val.values()),
            one.repeated,
            one.not_drawn,
            one.unused,
            _short(one.licence) or "not stated",
            _short(one.source) or "not stated",
        ]
        for one in run.data_sets
    ]
    names = ["data set", "records", "trained on", "held out", "repeated", "not drawn", "unused", "licence", "source"]
    if rows:
        tables.append(_table("data sets", names, rows))
    return tables


def data_steps(run: RunRecord) -> list[tuple[str, list[Fact], list[Table]]]:
    """The reports of the commands that made the data: title, facts, tables, all of a bounded size."""
    found = []
    for report in run.data_reports:
        facts = [(_short(str(name)), _cell(value)) for name, value in report.facts[:MAX_ROWS]]
        title = report.title.partition(": ")[0]  # the rest is a folder
        found.append((_short(title), facts, [_table(_short(t.title), t.columns, t.rows) for t in report.tables[:12]]))
    return found


def comparison(run: RunRecord, others: Sequence[RunRecord]) -> list[Table]:
    """The figures of several runs side by side, and the settings in which they differ."""
    runs = [run, *others]
    names = [_short(one.name) for one in runs]
    rows: list[list[Cell]] = []
    for label, values in (
        ("stage", [one.stage or None for one in runs]),
        ("state", [state_of(one) for one in runs]),
        ("last step", [one.metrics.step for one in runs]),
        ("parameters", [parameters(one) for one in runs]),
        ("tokens read", [_whole(one.metrics.last.get("tokens")) for one in runs]),
        ("training loss", [one.metrics.last.get("loss") for one in runs]),
        ("time in steps", [_duration(one.metrics.seconds) for one in runs]),
        ("tokens per second", [_whole(one.metrics.last.get("tokens_per_s")) for one in runs]),
        ("steps skipped", [_whole(one.metrics.last.get("skipped")) for one in runs]),
    ):
        if any(value is not None for value in values):
            rows.append([label, *values])
    figures = _table("figures", ["", *names], rows)
    results: list[list[Cell]] = []
    for name in dict.fromkeys(name for one in runs for name in one.metrics.held_out):
        found = [one.metrics.held_out.get(name) for one in runs]
        if sum(result is not None for result in found) > 1:
            results.append([_short(name), *(result and with_error(result) for result in found)])
    settings = _table("settings that differ", ["", *names], _differences(runs))
    tables = [figures, _table("last held-out results of each run, ± standard error", ["", *names], results), settings]
    return [table for table in tables if table.rows]


def _differences(runs: Sequence[RunRecord]) -> list[list[Cell]]:
    flat = [_flat(run.config) for run in runs]
    names = [name for name in dict.fromkeys(name for one in flat for name in one) if name != "run_dir"]
    found = [[name, *(one.get(name, "") for one in flat)] for name in names if len({o.get(name) for o in flat}) > 1]
    return [[_short(value) for value in row] for row in found]


def _flat(config: dict[str, Any], before: str = "") -> dict[str, str]:
    """The values of a configuration as text, by their dotted names."""
    found: dict[str, str] = {}
    for name, value in config.items():
        if isinstance(value, dict) and value and len(before) < CELL:
            found |= _flat(value, f"{before}{name}.")
        else:
            found[f"{before}{name}"] = "" if value is None else str(value)
    return found


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> Table:
    """A table of at most `MAX_ROWS` rows and cells of a bounded length."""
    shown = [[_cell(value) for value in row] for row in rows[:MAX_ROWS]]
    if len(rows) > MAX_ROWS:
        shown.append([f"... {len(rows) - MAX_ROWS:,}", *[None] * (len(columns) - 1)])
    return Table(title, [_short(str(name)) for name in columns], shown)


def _cell(value: Any) -> Cell:
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return _short(str(value))


def _short(text: str) -> str:
    short = cut(text, CELL)
    return f"{short.text} ... (+{short.left_out:,})" if short.left_out else text


def _whole(value: Any) -> int | None:
    return int(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _duration(seconds: float) -> str | None:
    return format_duration(seconds) if seconds > 0 else None
