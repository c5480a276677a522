"""Commands that make the same output beside each other: each works for the one that leads, or leads itself."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import ParamSpec, TypeVar

from babyllm.errors import UserError
from babyllm.pipeline.engines import presence
from babyllm.pipeline.engines.shared_queue import work_for

P = ParamSpec("P")
R = TypeVar("R")


class Led(UserError):
    """Another process makes the same output, and this one can work for it.

    Args:
        out: directory of the output.
        folder: folder of the queue.
        n_workers: number of processes of this machine.
    """

    def __init__(self, out: Path, folder: Path, n_workers: int) -> None:
        super().__init__(f"{out}: another process is writing it; wait for its end or choose another directory")
        self.out, self.folder, self.n_workers = out, folder, n_workers


def beside_others(stage: Callable[P, R]) -> Callable[P, R]:
    """A stage that works for another process which makes the same output, and begins again when that has ended.

    The result is then complete, or this process leads.
    """

    @wraps(stage)
    def run(*arguments: P.args, **named: P.kwargs) -> R:
        n_waits = 0
        while True:
            try:
                return stage(*arguments, **named)
            except Led as led:
                found = led
            lead = presence.leader(found.folder)
            if lead is not None:
                _work_for(lead, found)
            elif n_waits * presence.BEAT_S < presence.SILENCE_S:  # it is just beginning or ending
                time.sleep(presence.BEAT_S)
            else:
                raise found
            n_waits = 0 if lead is not None else n_waits + 1

    return run


def _work_for(lead: str, led: Led) -> None:
    print(f"{led.out}: {lead} leads; this process works for it with {led.n_workers} workers", file=sys.stderr)
    n_done = work_for(lead, led.folder, presence.unique_name(), led.n_workers)
    print(f"{led.out}: this process has done {n_done:,} parts of the work; {lead} has ended", file=sys.stderr)
