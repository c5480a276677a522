"""What every stage settles before anything starts: its configuration, and that its run directory is its own."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from babyllm.config import load
from babyllm.config.values import check
from babyllm.errors import UserError
from babyllm.files import locked
from babyllm.run_directory import CONFIG, LATEST, require_steps, step_directories, take_back
from babyllm.runtime import Runtime, choose_processes
from babyllm.training.plot import PLOT_FILE
from babyllm.training.records import METRICS_FILE, SAMPLES_FILE, read_metrics
from babyllm.training.run_config import RunConfig

C = TypeVar("C")
LOCK, ENVIRONMENT = ".lock", "environment.json"
LOCK_PATIENCE_S = 10.0  # a process that was killed a moment ago may still be ending


def settled(config: C) -> C:
    """The same configuration of a stage with the number of processes: as chosen when its run began, or anew.

    Raises:
        UserError: so many processes cannot work here.
    """
    given: Any = config
    stored = stored_config(type(config), given.run_dir)
    n, remark = choose_processes(
        given.runtime, given.data.global_batch, stored.runtime.processes if stored is not None else None
    )
    if remark:
        print(f"{given.run_dir}: {remark}", file=sys.stderr)
    result: C = replace(given, runtime=replace(given.runtime, processes=n))
    return result


def stored_config(kind: type[C], run_dir: str) -> Any:
    """The configuration that a run directory holds, of type `kind`; None where it holds none that can be read."""
    with suppress(UserError):
        if Path(run_dir, CONFIG).is_file():
            return load(kind, Path(run_dir, CONFIG))
    return None


@contextmanager
def take(config: RunConfig, runtime: Runtime) -> Iterator[None]:
    """Keep other processes out of the run directory of `config` while the body runs; every rank must call it.

    What a kill left there is put right first.

    Raises:
        UserError: a value of the configuration cannot be; the directory cannot be written, is in use, or lacks steps it
            had.
    """
    check(config)
    directory = Path(config.run_dir)
    with ExitStack() as stack:
        with runtime.main_first():
            if runtime.is_main:
                try:
                    _require_own(directory)
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
                require_steps(directory, _last_recorded(directory), stored.save_every)
        yield


def _require_own(directory: Path) -> None:
    """Refuse a directory where no run has been, and a file of a person's has the name of one that a run writes."""
    if (directory / LOCK).exists() or (directory / ENVIRONMENT).is_file() or step_directories(directory):
        return
    written = (CONFIG, METRICS_FILE, SAMPLES_FILE, PLOT_FILE, LATEST)
    if theirs := [name for name in written if (directory / name).exists()]:
        raise UserError(
            f"{directory / theirs[0]}: is there, no run has made it, and this one would write over it; choose another "
            "--run_dir"
        )


def _last_recorded(directory: Path) -> int:
    if not (directory / METRICS_FILE).is_file():
        return 0
    return int(max((record["step"] or 0 for record in read_metrics(directory)), default=0))


def unwritable(directory: Path, error: OSError) -> UserError:
    """What is told of a run directory that cannot be written."""
    what = error.filename2 or error.filename
    where = f"{what}: " if what and str(what) != str(directory) else ""
    return UserError(f"{directory}: cannot be written ({where}{error.strerror}); choose another --run_dir")
