"""The step directories of a run: which exist, which one the run stands for, and how a new one is added.

    .saving/ -> complete (resume.json is written last) -> the step it replaces is renamed -> step_00002000/ -> `latest`

Every change is a rename, so a kill leaves the old step, the new one, or both; `take_back` cleans up after a kill.
`resume.json` has the sha256 of the files beside it and of itself: a step whose checksums match is complete.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any, Literal

from babyllm.errors import UserError
from babyllm.files import fsync, json_digest, write_json
from babyllm.integrity import RESUME, compare_step, read_record

CONFIG, LATEST, SAVING = "config.yaml", "latest", ".saving"
_ASIDE, _DELETING, _POINTER = ".replaced_", ".deleting_", f".{LATEST}"
CONFIG = "config.yaml"
_STEP = re.compile(r"step_(\d{8,})")


def step_name(step: int) -> str:
    """The name of a step's directory, such as step_00002000."""
    return f"step_{step:08d}"


def step_directories(run_dir: Path) -> dict[int, Path]:
    """The complete step directories of a run by step, ascending."""
    return {step: path for step, path in _named_as_steps(run_dir).items() if (path / RESUME).is_file()}


def _named_as_steps(run_dir: Path) -> dict[int, Path]:
    return dict(sorted((int(m[1]), p) for p in run_dir.glob("step_*") if (m := _STEP.fullmatch(p.name))))


def latest(run_dir: Path) -> Path | None:
    """The newest complete step directory of a run, from which it resumes; None if there is none."""
    steps = step_directories(run_dir)
    return steps[max(steps)] if steps else None


def meant_step(run_dir: Path) -> Path | None:
    """The step directory of the model that a run stands for: the one that `latest` names, else the newest; or None.

    `latest` names the newest step, or the best one if early stopping has ended the run. A damaged step is returned too:
    reading it reports the damage.
    """
    pointer = run_dir / LATEST
    if pointer.is_file():
        named = run_dir / pointer.read_text(encoding="utf-8", errors="replace").strip()
        if _STEP.fullmatch(named.name) and named.is_dir():
            return named
    steps = {step: path for step, path in _named_as_steps(run_dir).items() if _is_begun(path)}
    return steps[max(steps)] if steps else None


def _is_begun(directory: Path) -> bool:
    """Whether a directory holds any file that marks a model or a step."""
    return any(os.path.lexists(directory / name) for name in (RESUME, "config.json", "adapter_config.json"))


def read_resume(directory: Path, *, compare: bool = True) -> dict[str, Any]:
    """The contents of a step's resume.json, after verifying its sha256 and, with `compare`, those it lists.

    Raises:
        UserError: a file is missing or damaged.
    """
    advice = f"delete {directory} to go on from an older step"
    resume = read_record(directory, advice)
    if compare:
        compare_step(directory, resume, advice)
    return resume


def write_resume(directory: Path, resume: dict[str, Any]) -> None:
    """Write a step's resume.json atomically; `resume["sha256"]` has the checksums of the other files.

    Raises:
        OSError: the file cannot be written.
    """
    own = {RESUME: json_digest(resume)}
    write_json(directory / RESUME, {**resume, "sha256": {**resume["sha256"], **own}})


def place(run_dir: Path, step: int) -> None:
    """Rename `.saving` to the step's directory and update `latest`; an old directory of that step is replaced.

    It only renames. `write_pointer` must be called before, so that a full disk is noticed before anything has changed.

    Raises:
        UserError: a directory with the step's name is not a step of a run.
    """
    target, aside = run_dir / step_name(step), run_dir / f"{_ASIDE}{step_name(step)}"
    if target.exists():
        if not (target / RESUME).is_file():
            raise UserError(
                f"{target}: is not a step of a run (it has no {RESUME}); move it, step {step} needs the name"
            )
        _delete(aside)
        os.rename(target, aside)
    os.rename(run_dir / SAVING, target)
    os.replace(run_dir / _POINTER, run_dir / LATEST)
    fsync(run_dir)
    _delete(aside)


def point(run_dir: Path, step: int) -> None:
    """Make `latest` name this step, if the step exists."""
    name = step_name(step)
    is_there = (run_dir / name / RESUME).is_file()
    if is_there and not ((run_dir / LATEST).is_file() and (run_dir / LATEST).read_text().strip() == name):
        write_pointer(run_dir, step)
        os.replace(run_dir / _POINTER, run_dir / LATEST)
        fsync(run_dir)


def write_pointer(run_dir: Path, step: int) -> None:
    """Write the new contents of `latest` to a temporary file, which `place` or `point` renames."""
    pointer = run_dir / _POINTER
    try:
        pointer.write_text(f"{step_name(step)}\n")
        fsync(pointer)
    except OSError:
        pointer.unlink(missing_ok=True)
        raise


KeepEvery = int | Literal["log"]


def prune(run_dir: Path, keep: int, best: int | None, keep_every: KeepEvery = 0) -> None:
    """Delete all steps except the newest `keep`, the step `best` and those of `keep_every`.

    Args:
        run_dir: directory of the run.
        keep: number of newest steps, at least 1.
        best: number of a step; None for none.
        keep_every: steps whose numbers are multiples of it stay; "log", those of at least twice the number of the one
            that stays before them; 0 for no others.
    """
    steps, last = step_directories(run_dir), 0
    for step in list(steps)[:-keep]:
        stays = step >= 2 * last if keep_every == "log" else bool(keep_every) and step % keep_every == 0
        last = step if stays else last
        if not stays and step != best:
            _delete(steps[step])


def take_back(run_dir: Path) -> None:
    """Clean up after a kill: finish the renames of a complete step, and delete incomplete ones.

    Raises:
        UserError: a directory with a step's name is not a step of a run.
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
    """Refuse to resume from an older step, or from none, if a newer step is missing or damaged.

    Args:
        run_dir: directory of the run.
        last_recorded: step of the last record in metrics.jsonl.
        save_every: steps between checkpoints when the records were made; 0 for only at the end.

    Raises:
        UserError: a step is missing or incomplete; the message names it.
    """
    steps = step_directories(run_dir)
    for step, path in _named_as_steps(run_dir).items():
        if step > max(steps, default=-1):
            then = f"then the run goes on from {steps[max(steps)].name}" if steps else "there is no other step"
            raise UserError(
                f"{path}: has the name of a step but no {RESUME}, so it is damaged or not of this run; move it away, "
                f"{then}"
            )
    # The first step may have been in the writing until the second save.
    was_saved = (run_dir / LATEST).exists() or last_recorded > 2 * save_every > 0
    if not steps and was_saved:
        raise UserError(
            f"{run_dir}: its records reach step {last_recorded}, but its step directories are missing; restore one, "
            "or choose another --run_dir"
        )


def _delete(directory: Path) -> None:
    """Delete a step directory; it is renamed first, so that a partly deleted one never looks complete."""
    if directory.exists():
        doomed = directory.with_name(f"{_DELETING}{directory.name}")
        shutil.rmtree(doomed, ignore_errors=True)
        os.rename(directory, doomed)
        shutil.rmtree(doomed, ignore_errors=True)
