"""What every stage does before it starts: check its configuration and lock its run directory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path

from babyllm.config import differences, dump, load
from babyllm.config.values import check
from babyllm.errors import UserError
from babyllm.files import locked, write_bytes, write_json
from babyllm.run_directory import CONFIG, LATEST, require_steps, step_directories, take_back
from babyllm.runtime import Runtime, environment
from babyllm.training.curves.reference_curves import require_reference
from babyllm.training.recording.plot import PLOT_FILE
from babyllm.training.recording.records import (
    MESSAGES_FILE,
    METRICS_FILE,
    RUN_REPORT,
    SAMPLES_FILE,
    read_metrics,
)
from babyllm.training.run_config import RunConfig, stored_config

LOCK, ENVIRONMENT = ".lock", "environment.json"
LOCK_PATIENCE_S = 10.0  # a process that was just killed may still be exiting


@contextmanager
def take(config: RunConfig, runtime: Runtime) -> Iterator[None]:
    """Lock the run directory of `config` against other processes while the body runs; every rank must call it.

    It first repairs what a kill left in the directory.

    Raises:
        UserError: a value of the configuration is out of range or names no reference curve; the directory
            cannot be written, is in use, or lacks steps that it had.
    """
    check(config)
    require_reference(config.reference_curve)
    directory = Path(config.run_dir)
    with ExitStack() as stack:
        with runtime.main_first():
            if runtime.is_main:
                try:
                    _require_own(directory)
                    if not directory.exists():
                        stack.push(partial(_remove_if_unused, directory))
                    directory.mkdir(parents=True, exist_ok=True)
                    is_free = stack.enter_context(locked(directory / LOCK, LOCK_PATIENCE_S))
                    if is_free:
                        take_back(directory)
                except OSError as e:
                    raise unwritable(directory, e) from e
                if not is_free:
                    raise UserError(
                        f"{directory}: another process is training there; wait for it or choose another --run_dir"
                    )
                stored = stored_config(type(config), config.run_dir) or config
                every = stored.save_every if isinstance(stored.save_every, int) else 0
                require_steps(directory, _last_recorded(directory), every)
        yield


def _remove_if_unused(directory: Path, kind: type[BaseException] | None, *_: object) -> None:
    """Remove a new run directory if an error ended the run before it wrote anything there."""
    with suppress(OSError):
        if kind is not None and [path.name for path in directory.iterdir()] == [LOCK]:
            (directory / LOCK).unlink()
            directory.rmdir()


def _require_own(directory: Path) -> None:
    """Refuse a directory without a run if it has a file of the user's under a name that a run writes."""
    if (directory / LOCK).exists() or (directory / ENVIRONMENT).is_file() or step_directories(directory):
        return
    written = (CONFIG, METRICS_FILE, SAMPLES_FILE, MESSAGES_FILE, PLOT_FILE, RUN_REPORT, LATEST)
    if theirs := [name for name in written if (directory / name).exists()]:
        raise UserError(
            f"{directory / theirs[0]}: exists, was not made by a run and would be overwritten by this one; choose "
            "another --run_dir"
        )


def _last_recorded(directory: Path) -> int:
    if not (directory / METRICS_FILE).is_file():
        return 0
    return int(max((record["step"] or 0 for record in read_metrics(directory)), default=0))


def unwritable(directory: Path, error: OSError) -> UserError:
    """The error for a run directory that cannot be written."""
    what = error.filename2 or error.filename
    where = f"{what}: " if what and str(what) != str(directory) else ""
    return UserError(f"{directory}: cannot be written ({where}{error.strerror}); choose another --run_dir")


def write_config(directory: Path, config: RunConfig) -> list[str]:
    """Write the configuration and the environment of a run's start; returns what has changed since the last start.

    Raises:
        UserError: the directory cannot be written.
    """
    path = directory / CONFIG
    try:
        changed = differences(load(type(config), path), config) if path.is_file() else []
        lines = path.read_text(encoding="utf-8").splitlines() if changed else []
        names = {line.strip().partition(":")[0] for line in lines}  # a key that was not there then has not changed
        changed = [line for line in changed if "(absent)" in line or line.partition(":")[0].split(".")[-1] in names]
    except UserError as e:
        changed = [f"{path} was written by another version of babyllm ({e})"]
    try:
        write_bytes(path, dump(config).encode())
        write_json(directory / ENVIRONMENT, environment())
    except OSError as e:
        raise unwritable(directory, e) from e
    return changed
