"""The step directories of a run: which there are, which one is meant, and how one gets its place.

    .saving/ -> whole (resume.json is written last) -> the step it replaces is set aside -> step_00002000/ -> `latest`

Every change is a rename, so a kill leaves the old step, the new one, or both; `take_back` puts right what it left.
`resume.json` names the sha256 of the files beside it and of itself: what carries a right one is a whole step.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any

from babyllm.errors import UserError
from babyllm.files import fsync, json_digest, write_json
from babyllm.integrity import RESUME, compare_step, read_record

CONFIG, LATEST, SAVING = "config.yaml", "latest", ".saving"
_ASIDE, _DELETING, _POINTER = ".replaced_", ".deleting_", f".{LATEST}"
CONFIG = "config.yaml"
_STEP = re.compile(r"step_(\d{8,})")


def step_name(step: int) -> str:
    """The name of a step's directory."""
    return f"step_{step:08d}"


def step_directories(run_dir: Path) -> dict[int, Path]:
    """The complete step directories of a run, in the order of their steps."""
    return {step: path for step, path in _named_as_steps(run_dir).items() if (path / RESUME).is_file()}


def _named_as_steps(run_dir: Path) -> dict[int, Path]:
    return dict(sorted((int(m[1]), p) for p in run_dir.glob("step_*") if (m := _STEP.fullmatch(p.name))))


def latest(run_dir: Path) -> Path | None:
    """The newest complete step directory of a run, from which it goes on, or None."""
    steps = step_directories(run_dir)
    return steps[max(steps)] if steps else None


def meant_step(run_dir: Path) -> Path | None:
    """The step directory that is meant where the run is named as a model: the one `latest` names, else the newest.

    It is the newest, but for a run that early stopping has ended: there it is the best. A damaged one is meant all the
    same: reading it tells.
    """
    pointer = run_dir / LATEST
    if pointer.is_file():
        named = run_dir / pointer.read_text(encoding="utf-8", errors="replace").strip()
        if _STEP.fullmatch(named.name) and named.is_dir():
            return named
    steps = {step: path for step, path in _named_as_steps(run_dir).items() if _is_begun(path)}
    return steps[max(steps)] if steps else None


def _is_begun(directory: Path) -> bool:
    """Whether a directory holds a model or what a step has beside it."""
    return any(os.path.lexists(directory / name) for name in (RESUME, "config.json", "adapter_config.json"))


def read_resume(directory: Path, *, compare: bool = True) -> dict[str, Any]:
    """What a step's resume.json holds, after a check of it and, with `compare`, of the files beside it.

    Raises:
        UserError: a file is missing or damaged.
    """
    advice = f"delete {directory} to go on from an older step"
    resume = read_record(directory, advice)
    if compare:
        compare_step(directory, resume, advice)
    return resume


def write_resume(directory: Path, resume: dict[str, Any]) -> None:
    """Write a step's resume.json, whole or not at all; its "sha256" has the files beside it."""
    own = {RESUME: json_digest(resume)}
    write_json(directory / RESUME, {**resume, "sha256": {**resume["sha256"], **own}})


def place(run_dir: Path, step: int) -> None:
    """Give `.saving` its place as the newest step; one that has it already is set aside until then.

    There are only renames: `write_pointer` comes first, so that a full disk shows while nothing has changed.

    Raises:
        UserError: what has the place is no step of a run.
    """
    target, aside = run_dir / step_name(step), run_dir / f"{_ASIDE}{step_name(step)}"
    if target.exists():
        if not (target / RESUME).is_file():
            raise UserError(f"{target}: is no step of a run (it has no {RESUME}); move it, step {step} has its name")
        _delete(aside)
        os.rename(target, aside)
    os.rename(run_dir / SAVING, target)
    os.replace(run_dir / _POINTER, run_dir / LATEST)
    fsync(run_dir)
    _delete(aside)


def point(run_dir: Path, step: int) -> None:
    """Let `latest` name this step, if it is there."""
    name = step_name(step)
    is_there = (run_dir / name / RESUME).is_file()
    if is_there and not ((run_dir / LATEST).is_file() and (run_dir / LATEST).read_text().strip() == name):
        write_pointer(run_dir, step)
        os.replace(run_dir / _POINTER, run_dir / LATEST)
        fsync(run_dir)


def write_pointer(run_dir: Path, step: int) -> None:
    """Write what `latest` will hold once `place` or `point` gives it that name."""
    pointer = run_dir / _POINTER
    try:
        pointer.write_text(f"{step_name(step)}\n")
        fsync(pointer)
    except OSError:
        pointer.unlink(missing_ok=True)
        raise


def prune(run_dir: Path, keep: int, best: int | None) -> None:
    """Delete all steps but the newest `keep` and the best one."""
    steps = step_directories(run_dir)
    for step in list(steps)[:-keep]:
        if step != best:
            _delete(steps[step])


def take_back(run_dir: Path) -> None:
    """Put right what a kill left: a whole step that had no place gets it, what is not whole is deleted.

    Raises:
        UserError: what has a step's place is no step of a run.
    """
    saving = run_dir / SAVING
    if saving.is_dir() and (resume := _whole(saving)):
        write_pointer(run_dir, resume["step"])
        place(run_dir, resume["step"])
    for aside in run_dir.glob(f"{_ASIDE}*"):
        target = run_dir / aside.name.removeprefix(_ASIDE)
        if (target / RESUME).is_file() or not _whole(aside):
            shutil.rmtree(aside, ignore_errors=True)
        elif not target.exists():
            os.rename(aside, target)
            fsync(run_dir)
    for leftover in (saving, *run_dir.glob(f"{_DELETING}*")):
        shutil.rmtree(leftover, ignore_errors=True)
    (run_dir / _POINTER).unlink(missing_ok=True)


def _whole(directory: Path) -> dict[str, Any] | None:
    try:
        return read_resume(directory)
    except UserError:
        return None


def require_steps(run_dir: Path, last_recorded: int, save_every: int) -> None:
    """Refuse to go on from an older step, or from none, where a newer one has been and is not there any more.

    Args:
        run_dir: of the run.
        last_recorded: step of the last record of metrics.jsonl.
        save_every: steps between checkpoints when those records were made; 0 only at the end.

    Raises:
        UserError: says what is not whole, or missing.
    """
    steps = step_directories(run_dir)
    for step, path in _named_as_steps(run_dir).items():
        if step > max(steps, default=-1):
            then = f"then the run goes on from {steps[max(steps)].name}" if steps else "there is no other step"
            raise UserError(
                f"{path}: has the name of a step but no {RESUME}, so it is damaged or not of this run; move it away, "
                f"{then}"
            )
    was_saved = (run_dir / LATEST).exists() or last_recorded > save_every > 0
    if not steps and was_saved:
        raise UserError(
            f"{run_dir}: its records reach step {last_recorded}, but none of its steps is there; bring a step "
            "directory back, or choose another --run_dir"
        )


def _delete(directory: Path) -> None:
    """Delete a step directory so that at no moment a part of it looks complete."""
    if directory.exists():
        doomed = directory.with_name(f"{_DELETING}{directory.name}")
        shutil.rmtree(doomed, ignore_errors=True)
        os.rename(directory, doomed)
        shutil.rmtree(doomed, ignore_errors=True)
