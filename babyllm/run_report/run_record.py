"""A run as its directory records it, for a report; a part that is missing or damaged is named and costs nothing else.

run directory -> each part read by itself -> RunRecord, whose `missing` says what could not be read
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from babyllm.config.json_fields import read_json
from babyllm.data.conversation_config import STORE
from babyllm.data.pair_config import STORE as PAIRS
from babyllm.errors import UserError, in_one_line
from babyllm.integrity import RESUME
from babyllm.interop.hf_config import config_from_json
from babyllm.model.config import ModelConfig
from babyllm.pipeline.report import Report
from babyllm.pipeline.report_html import REPORT_FILES
from babyllm.run_directory import CONFIG, meant_step, step_directories
from babyllm.run_report.metric_curves import Metrics, read_curves
from babyllm.run_report.run_facts import Data, command_of, data_of, read_config, run_directory_of, stage_of
from babyllm.run_report.run_texts import Messages, Samples, read_messages, read_samples
from babyllm.store.data_sets import DataRecord, read_data_sets
from babyllm.training.recording.records import METRICS_FILE, SAMPLES_FILE

T = TypeVar("T")
ENVIRONMENT = "environment.json"
FOLDERS = 20
"""Number of folders in that of the data that are looked at for reports."""


@dataclass
class RunRecord:
    """What the files of a run say.

    Attributes:
        directory: directory of the run.
        name: name of the run.
        stage: command that made it, such as pretrain; empty if unknown.
        config: configuration by section; empty if unknown.
        command: command with all values that differ from the defaults; empty if unknown.
        environment: versions and machine.
        metrics: numbers and curves.
        samples: texts that the model wrote.
        messages: what the run said.
        data: size of the data; None if unknown.
        data_sets: data sets or paths that the data were made from.
        data_reports: reports of the commands that made the data, in their order.
        shape: shape of the model; None if unknown.
        resume: contents of resume.json of the step that the run stands for.
        steps: steps with a checkpoint.
        missing: parts that are missing or could not be read, each with the reason.
    """

    directory: Path
    name: str
    stage: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    command: str = ""
    environment: dict[str, Any] = field(default_factory=dict)
    metrics: Metrics = field(default_factory=Metrics)
    samples: Samples = field(default_factory=Samples)
    messages: Messages = field(default_factory=Messages)
    data: Data | None = None
    data_sets: list[DataRecord] = field(default_factory=list)
    data_reports: list[Report] = field(default_factory=list)
    shape: ModelConfig | None = None
    resume: dict[str, Any] = field(default_factory=dict)
    steps: list[int] = field(default_factory=list)
    missing: list[tuple[str, str]] = field(default_factory=list)

    def part(self, what: str, read: Callable[[], T], otherwise: T) -> T:
        """What `read` returns; if it fails, the part is named as missing."""
        try:
            return read()
        except FileNotFoundError as error:
            self.missing.append((what, f"{Path(str(error.filename)).name}: no such file"))
        except Exception as error:  # files of other versions, or damaged ones, fail in many ways
            self.missing.append((what, in_one_line(error) or type(error).__name__))
        return otherwise

    def setting(self, section: str, name: str) -> Any:
        """A value of a section of the configuration; None if it is not there."""
        values = self.config.get(section)
        return values.get(name) if isinstance(values, dict) else None


def read_run_record(path: Path) -> RunRecord:
    """Read a run directory, or the run that a step directory belongs to.

    Raises:
        UserError: there is no run at the path.
    """
    directory = run_directory_of(path) if path.is_dir() else None
    if directory is None:
        raise UserError(
            f"{path}: is not a run; give the directory of a training run, which holds {METRICS_FILE} and {CONFIG}"
        )
    made = RunRecord(directory, directory.resolve().name)
    made.config = made.part("configuration", lambda: read_config(_required(directory / CONFIG)), {})
    if made.config:
        names = set(map(str, made.config))
        made.stage = made.part("stage", lambda: stage_of(names)[0], "")
        made.command = made.part("command", lambda: command_of(directory / CONFIG, names), "")
        if not made.command:
            made.missing.append(("command", "the configuration is of another version or kind of run"))
    made.environment = made.part("environment", lambda: read_json(_required(directory / ENVIRONMENT)), {})
    made.metrics = made.part("metrics", lambda: read_curves(directory), Metrics())
    made.samples = made.part("samples", lambda: read_samples(directory), Samples())
    made.messages = made.part("messages", lambda: read_messages(directory), Messages())
    made.steps = made.part("checkpoints", lambda: list(step_directories(directory)), [])
    step = made.part("checkpoints", lambda: meant_step(directory), None)
    if step is None:
        made.missing.append(("checkpoints", "no step is saved"))
    else:
        made.resume = made.part("checkpoints", lambda: read_json(_required(step / RESUME)), {})
    made.shape = made.part("shape of the model", lambda: _shape(directory, step), None)
    made.data = made.part("data", lambda: data_of(directory, made.config), None)
    made.data_sets = made.part("data sets", lambda: _data_sets(directory), [])
    for place in made.part("report of the data", lambda: _data_places(made), list[Path]()):
        report = made.part("report of the data", partial(_data_report, place), None)
        made.data_reports += [report] if report else []
    if not (directory / SAMPLES_FILE).is_file() and not any(what == "samples" for what, _ in made.missing):
        made.missing.append(("samples", f"{SAMPLES_FILE}: no such file"))
    return made


def _required(path: Path) -> Path:
    if not path.is_file():
        raise FileNotFoundError(2, "no such file", str(path))
    return path


def _shape(directory: Path, step: Path | None) -> ModelConfig | None:
    """The shape of the saved model, or of the base that its adapter belongs to."""
    for place in ([step] if step else []) + [directory / "base"]:
        if (place / "config.json").is_file():
            return config_from_json(read_json(place / "config.json"), str(place / "config.json"))
    return None


def _data_sets(directory: Path) -> list[DataRecord]:
    return [one for store in (STORE, PAIRS, "") for one in read_data_sets(directory / store)]


def _data_places(run: RunRecord) -> list[Path]:
    """The folders with a report on how the run's data were made, in the order in which the reports were written."""
    homes = [run.directory / name for name in (STORE, PAIRS)]
    path = run.setting("data", "path")
    outside = [Path(path)] if isinstance(path, str) and path and "://" not in path else []
    for home in (*outside, run.directory / "data"):
        homes += [home, *(sorted(home.iterdir())[:FOLDERS] if home.is_dir() else [])]
    reports = [home / REPORT_FILES[0] for home in homes]
    written = {report: report.stat().st_mtime for report in reports if report.is_file()}
    return [report.parent for report in sorted(written, key=written.__getitem__)]


def _data_report(place: Path) -> Report:
    return Report.from_json(read_json(place / REPORT_FILES[0]))
