"""A report on a run directory: checkpoints, newest metrics, whether the loss is normal, configuration in brief."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from babyllm.pipeline.report import Fact, Report, Table
from babyllm.run_directory import CONFIG, latest, step_directories
from babyllm.run_report.run_facts import read_config
from babyllm.runtime.machine import Language, preferred_language
from babyllm.training.curves.curve_facts import Curve, facts_of_run
from babyllm.training.curves.finding_texts import page_of
from babyllm.training.curves.loss_findings import LEAST
from babyllm.training.curves.loss_review import findings_of_run
from babyllm.training.curves.reference_curves import references
from babyllm.training.recording.records import read_metrics


def run_report(directory: Path) -> Report:
    """A report on a run: checkpoints, newest metrics, findings on its loss and known losses, configuration by section.

    Findings, and the pages that explain them, are in the language of the machine's user.

    Raises:
        UserError: its metrics or its configuration are damaged.
    """
    steps, newest = step_directories(directory), latest(directory)
    shown = ", ".join(map(str, steps)) if len(steps) <= 8 else f"{min(steps)} ... {max(steps)} ({len(steps)} of them)"
    facts: list[Fact] = [
        ("steps with a checkpoint", shown or "none yet"),
        ("newest checkpoint", newest.name if newest else "none yet"),
    ]
    records = list(read_metrics(directory))
    values: dict[str, tuple[Any, Any]] = {}
    for record in records:
        values |= {name: (value, record["step"]) for name, value in record.items() if name != "step"}
    rows = [[name, value, step] for name, (value, step) in values.items()]
    metrics = Table("newest metrics", ["name", "value", "step"], rows)
    config = read_config(directory / CONFIG)
    sections = {name: value for name, value in config.items() if isinstance(value, dict)}
    plain = {name: value for name, value in config.items() if not isinstance(value, dict)}
    brief = [[name, _brief(section)] for name, section in [("", plain), *sections.items()]]
    curve, language = Curve([*records]), preferred_language()
    of_loss = [_findings(directory, len(curve), language), _known_losses(directory, curve, language)]
    configuration = Table("configuration", ["section", "values"], brief)
    return Report(f"run: {directory}", facts, [metrics, *of_loss, configuration])


def _findings(directory: Path, n_records: int, language: Language) -> Table:
    """What is unusual about the run's loss."""
    found = findings_of_run(directory, language)
    rows = [[one.severity, one.text, one.page] for one in found] or [
        ["none", _nothing(n_records, language), page_of("", language)]
    ]
    return Table("is the loss normal?", ["finding", "what was found", "page"], rows)


def _nothing(n_records: int, language: Language) -> str:
    is_short = n_records < LEAST
    if language == "zh":
        few = f"；但只有 {n_records} 条记录，多数判断需要 {LEAST} 条"
        return "损失没有异常" + (few if is_short else "")
    few = f", but it has {n_records} of the {LEAST} records that most findings need"
    return "nothing unusual about the loss" + (few if is_short else "")


def _known_losses(directory: Path, curve: Curve, language: Language) -> Table:
    """The run's loss beside those of runs that are known to have gone well, at the same number of steps or tokens."""
    rows: list[list[str | float]] = []
    facts = facts_of_run(directory)
    for one in references(curve, facts, facts.reference, language):
        mine = curve.near(one.metric, one.steps[-1]) if one.steps else None
        if mine is not None:
            label = one.label + (f" ({one.note})" if one.note else "")
            rows.append([label, round(one.steps[-1]), mine, one.values[-1], one.source])
    return Table("known losses", ["curve", "at step", "this run", "known", "source"], rows)


def _brief(section: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in section.items() if value is not None)
