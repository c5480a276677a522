"""One process among all processes of a run: its device, its rank, what it sums and waits for with the others.

torch is imported where it is used, so that commands which need none of it start at once.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from babyllm.errors import UserError
from babyllm.machine import cores, describe, keep_freed_memory
from babyllm.runtime.config import RuntimeConfig
from babyllm.runtime.device import compile_pays, find_device, find_dtype
from babyllm.runtime.group import joined_group
from babyllm.runtime.signals import StopSignal

if TYPE_CHECKING:
    import torch
    from torch.distributed.distributed_c10d import Store

    from babyllm.runtime.watchdog import Watchdog


@dataclass
class Runtime:
    """This process among all processes of the run; made by `start`."""

    device: torch.device
    dtype: torch.dtype
    compile: bool
    rank: int
    world_size: int
    local_rank: int
    local_world_size: int
    _stop: StopSignal
    _store: Store | None = None
    _watchdog: Watchdog | None = None
    _firsts: Iterator[int] = field(default_factory=itertools.count)

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which writes files and logs."""
        return self.rank == 0

    @property
    def stop_requested(self) -> bool:
        """Whether SIGTERM or SIGINT came to *this* rank; sum it over ranks. A second SIGINT raises at once."""
        return self._stop.is_set

    def autocast(self) -> AbstractContextManager[Any]:
        """A context in which matrix products run in `dtype`."""
        import torch

        if self.dtype is torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, self.dtype)

    def scaler(self) -> torch.amp.GradScaler:
        """A gradient scaler, which does nothing unless dtype is float16."""
        import torch

        return torch.amp.GradScaler(self.device.type, enabled=self.dtype is torch.float16)

    def sum(self, values: Sequence[float]) -> list[float]:
        """Each value summed over all ranks in float64, the same bits on every rank; exact for integers up to 2**53.

        When a rank is missing this fails, and `start` turns the failure into a message that names the rank.
        """
        import torch
        import torch.distributed as dist

        total = torch.tensor(values, dtype=torch.float64)
        if self.world_size > 1:
            dist.all_reduce(total)
        return [float(value) for value in total.tolist()]

    def barrier(self) -> None:
        """Wait until every rank is here."""
        self.sum([0.0])

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """Run the body on rank 0 while the others wait, however long it takes, then on the others.

        When it fails on rank 0, which tells why, the others exit silently with status 1.
        """
        if self._store is None:
            yield
            return
        key = f"main_first/{next(self._firsts)}"
        with self.patience():
            if self.is_main:
                try:
                    yield
                except BaseException:
                    self._store.set(key, "failed")
                    raise
                self._store.set(key, "done")
                return
            while not self._store.check([key]):
                time.sleep(0.1)
            if self._store.get(key) != b"done":
                raise SystemExit(1)
            yield

    def beat(self, step: int) -> None:
        """Tell the watchdog that this rank has reached `step` or is getting on with it; cheap, so call it often."""
        if self._watchdog:
            self._watchdog.beat(step)

    def patience(self) -> AbstractContextManager[None]:
        """A context for long work without beats (compiling, saving): only ranks that die are named meanwhile."""
        return self._watchdog.patience() if self._watchdog else nullcontext()


@contextmanager
def start(config: RuntimeConfig) -> Iterator[Runtime]:
    """Give a Runtime from `config` and what torchrun put into the environment; without torchrun, a run of one process.

    Sets threads and determinism; catches SIGTERM and SIGINT and belongs to the process group while the body runs.

    Raises:
        UserError: the device is not there, the ranks cannot meet, or a rank of the run died.
    """
    import torch

    if config.timeout_s <= 0:
        raise UserError(f"runtime.timeout_s={config.timeout_s:g}: give a positive number of seconds")
    if config.threads is not None and config.threads < 1:
        raise UserError(f"runtime.threads={config.threads}: must be at least 1")
    rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    local_rank, local_world_size = int(os.environ.get("LOCAL_RANK", 0)), int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    device = find_device(config.device, local_rank, local_world_size)
    # torchrun sets OMP_NUM_THREADS=1, which leaves most cores idle.
    torch.set_num_threads(config.threads or max(1, cores() // local_world_size))
    if device.type == "cpu":
        keep_freed_memory()
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if config.deterministic != torch.are_deterministic_algorithms_enabled():  # setting it imports the compiler: seconds
        torch.use_deterministic_algorithms(config.deterministic)
    is_compiled = compile_pays(device) if config.compile == "auto" else config.compile
    dtype, stop = find_dtype(config.dtype, device), StopSignal()
    runtime = Runtime(device, dtype, is_compiled, rank, world_size, local_rank, local_world_size, stop)
    with ExitStack() as stack:
        stack.enter_context(stop.installed())
        if world_size > 1:
            runtime._store, runtime._watchdog = stack.enter_context(
                joined_group(device, rank, world_size, config.timeout_s)
            )
        yield runtime


def environment() -> dict[str, Any]:
    """What a run is made with, as JSON values: versions, machine, number of ranks and the commit of the source."""
    return {**describe(), "world_size": int(os.environ.get("WORLD_SIZE", 1))}
