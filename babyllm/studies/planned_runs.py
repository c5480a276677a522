"""The runs of a study: their configurations, their files, and which of them are finished.

OUT/ARM/seed_1/       the run directory
OUT/ARM/seed_1.yaml   its configuration: `babyllm STAGE --config=OUT/ARM/seed_1.yaml` repeats the run
OUT/ARM/seed_1.log    what it printed
OUT/ARM/seed_1.json   the step at which it ended; written once it has
OUT/ARM/before/       what the arm's commands have made
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from babyllm.errors import UserError
from babyllm.files import write_bytes, write_json
from babyllm.run_directory import latest, read_resume, step_name
from babyllm.studies.run_values import as_yaml, changed_keys, check_values, run_values
from babyllm.studies.study import BASE, Study, read_yaml

OUT, SHARED = "{out}", "{base}"
CONFIG = "config"
MADE = "before"


@dataclass(frozen=True, eq=False)
class PlannedRun:
    """One run of a study.

    Attributes:
        arm: name of its arm.
        seed: its seed.
        directory: its run directory.
        values: its configuration by dotted key, as far as it differs from the defaults.
        steps: number of its steps; None where it follows from the data.
        early_stop: number of evaluations without a better result that end it; 0 never does.
    """

    arm: str
    seed: int
    directory: Path
    values: Mapping[str, Any]
    steps: int | None = None
    early_stop: int = 0

    @property
    def label(self) -> str:
        """The run in words."""
        return f"{self.arm}, seed {self.seed}"

    @property
    def config_file(self) -> Path:
        """The file of its configuration."""
        return self.directory.with_name(f"{self.directory.name}.yaml")

    @property
    def log(self) -> Path:
        """The file of what it prints."""
        return self.directory.with_name(f"{self.directory.name}.log")

    @property
    def mark(self) -> Path:
        """The file that says that it is finished."""
        return self.directory.with_name(f"{self.directory.name}.json")


def made_directory(study: Study, name: str) -> Path:
    """The directory for what the commands of an arm, or of base, make: `{out}`."""
    return study.folder(name) / MADE


def planned_runs(study: Study, where: str) -> list[PlannedRun]:
    """The runs of a study, all arms of a seed before the next seed.

    Args:
        study: the study; what its arms read from `before` exists.
        where: name of the study for messages.

    Raises:
        UserError: a flag is unknown or its value is wrong; the message names the arm.
    """
    return [_planned(study, arm, seed, where) for seed in study.seeds for arm in study.arms]


def check_arms(study: Study, where: str) -> None:
    """Refuse wrong flags before anything is run; a configuration that `before` is still to make is not read.

    Raises:
        UserError: as `planned_runs`.
    """
    for arm, flags in study.arms.items():
        files = [_filled(study, name, each.get(CONFIG)) for name, each in ((BASE, study.base), (arm, flags))]
        made = [made_directory(study, name) for name in (BASE, arm) if name in study.before]
        if not any(
            file and folder in Path(file).parents and not Path(file).is_file() for file in files for folder in made
        ):
            _planned(study, arm, study.seeds[0], where)


def _planned(study: Study, arm: str, seed: int, where: str) -> PlannedRun:
    parts: dict[str, Mapping[str, Any]] = {}
    for name, flags in ((BASE, study.base), (arm, study.arms[arm])):
        origin = f"{where}: base" if name == BASE else f"{where}: arm {arm!r}"
        for maker, word in ((name, OUT), (BASE, SHARED)):
            if word in str(flags) and maker not in study.before:
                raise UserError(f"{origin}: {word} is what the commands in 'before.{maker}' make, and there are none")
        own = dict(_filled(study, name, flags))
        if (file := own.pop(CONFIG, None)) is not None:
            from_file = read_yaml(Path(str(file)))
            from_file.pop("run_dir", None)
            parts[str(file)] = from_file
        parts[origin] = own
    directory = study.folder(arm) / f"seed_{seed}"
    values = run_values(study.stage, parts, seed, directory)
    config = check_values(study.stage, values, f"{where}: arm {arm!r}")
    return PlannedRun(arm, seed, directory, values, config.plan.steps, config.early_stop)


def _filled(study: Study, name: str, value: Any) -> Any:
    """A value with the directories that `before` fills in place of {out} and {base} in its texts."""
    if isinstance(value, str):
        return with_directories(study, name, value)
    if isinstance(value, list):
        return [_filled(study, name, each) for each in value]
    return {key: _filled(study, name, each) for key, each in value.items()} if isinstance(value, Mapping) else value


def with_directories(study: Study, name: str, text: str) -> str:
    """A text of an arm, or of base, with directories in place of {out} and {base}."""
    own, shared = (str(made_directory(study, each)) for each in (name, BASE))
    return text.replace(OUT, own).replace(SHARED, shared)


def begin(run: PlannedRun) -> None:
    """Write the configuration of a run that is about to start.

    Raises:
        UserError: the run has steps of another configuration; the message names the keys.
        OSError: the file cannot be written.
    """
    require_same(run)
    run.config_file.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(run.config_file, as_yaml(run.values).encode())


def require_same(run: PlannedRun) -> None:
    """Refuse a run that has finished, or has saved a step, with another configuration.

    Raises:
        UserError: the configuration has changed; the message names the keys.
    """
    if not run.mark.is_file() and latest(run.directory) is None:
        return
    try:
        before = yaml.safe_load(run.config_file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        raise UserError(
            f"{run.directory}: holds a run, but {run.config_file.name} beside it cannot be read; delete the directory "
            "or choose another OUT"
        ) from None
    if changed := changed_keys(before, yaml.safe_load(as_yaml(run.values))):
        raise UserError(
            f"{run.directory}: was run with other flags ({'; '.join(changed)}); delete it, choose another OUT, or undo "
            "the change"
        )


def is_finished(run: PlannedRun) -> bool:
    """Whether a run has ended by itself and its last step is still there."""
    try:
        step = json.loads(run.mark.read_text(encoding="utf-8"))["step"]
        return type(step) is int and (run.directory / step_name(step)).is_dir()
    except (OSError, ValueError, KeyError, TypeError):
        return False


def note_end(run: PlannedRun) -> bool:
    """Mark a run whose process has ended without an error as finished; returns False if it was only stopped.

    Raises:
        OSError: the mark cannot be written.
    """
    newest = latest(run.directory)
    if newest is None:
        return False
    resume = read_resume(newest, compare=False)
    has_lost_patience = run.early_stop > 0 and resume["bad_evaluations"] >= run.early_stop
    if run.steps is not None and resume["step"] < run.steps and not has_lost_patience:
        return False
    write_json(run.mark, {"step": resume["step"]})
    return True
