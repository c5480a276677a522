"""What every stage settles about its configuration before anything starts."""

from __future__ import annotations

import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from babyllm.config import load
from babyllm.errors import UserError
from babyllm.runtime import choose_processes
from babyllm.training.checkpoint import CONFIG

C = TypeVar("C")


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
