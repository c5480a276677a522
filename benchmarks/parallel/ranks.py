"""Processes of one measurement: how they are started, and the memory of their own that they take at most.

run(module, job) -> one process for each rank -> peak(): RssAnon in MB -> report() -> the highest of all ranks
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from babyllm.runtime import Runtime
from benchmarks.history import ROOT

_INTERVAL_S = 0.002


def run(module: str, job: Mapping[str, Any], ranks: int) -> dict[str, float]:
    """What the ranks of `python -m module --worker JOB` report: the last line that they print."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}", "-m", module]
    command = [sys.executable, *launcher, "--worker", json.dumps(job)]
    output = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    return dict(json.loads(output.splitlines()[-1]))


def report(runtime: Runtime, values: Mapping[str, float]) -> None:
    """Print the highest of each value over all ranks; every rank must call it."""
    mine = [[x if rank == runtime.rank else 0.0 for rank in range(runtime.world_size)] for x in values.values()]
    totals = runtime.sum([x for of_value in mine for x in of_value])
    n = runtime.world_size
    if runtime.is_main:
        print(json.dumps({key: max(totals[i * n : i * n + n]) for i, key in enumerate(values)}), flush=True)
    runtime.barrier()


@contextmanager
def peak(values: dict[str, float], key: str) -> Iterator[None]:
    """Note by how many MB the process's own memory grew at most while the body ran, as `values[key]`.

    Pages of files that are mapped are not counted: the system drops them when it needs memory.
    """
    before, most, is_over = anonymous(), 0.0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not is_over.wait(_INTERVAL_S):
            most = max(most, anonymous())

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield
    finally:
        is_over.set()
        watching.join()
        values[key] = max(most, anonymous()) - before


def anonymous() -> float:
    """RssAnon of this process, in MB."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("RssAnon:"))
