"""A report on a run directory: its checkpoints, its newest metrics, and its configuration in brief."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from babyllm.pipeline.report import Fact, Report, Table
from babyllm.run_directory import CONFIG, latest, step_directories
from babyllm.run_report.run_facts import read_config
from babyllm.training.recording.records import read_metrics


def run_report(directory: Path) -> Report:
    """A report on a run: checkpoints, the newest value of every metric, configuration by section.

    Raises:
        UserError: its metrics or its configuration are damaged.
    """
    steps, newest = step_directories(directory), latest(directory)
    shown = ", ".join(map(str, steps)) if len(steps) <= 8 else f"{min(steps)} ... {max(steps)} ({len(steps)} of them)"
    facts: list[Fact] = [
        ("steps with a checkpoint", shown or "none yet"),
        ("newest checkpoint", newest.name if newest else "none yet"),
    ]
    values: dict[str, tuple[Any, Any]] = {}
    for record in read_metrics(directory):
        values |= {name: (value, record["step"]) for name, value in record.items() if name != "step"}
    rows = [[name, value, step] for name, (value, step) in values.items()]
    metrics = Table("newest metrics", ["name", "value", "step"], rows)
    config = read_config(directory / CONFIG)
    sections = {name: value for name, value in config.items() if isinstance(value, dict)}
    plain = {name: value for name, value in config.items() if not isinstance(value, dict)}
    brief = [[name, _brief(section)] for name, section in [("", plain), *sections.items()]]
    return Report(f"run: {directory}", facts, [metrics, Table("configuration", ["section", "values"], brief)])


def _brief(section: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in section.items() if value is not None)
