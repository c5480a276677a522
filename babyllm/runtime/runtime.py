"""One process of a run: its device, its rank, and how it sums and waits together with the others.

torch is imported inside functions, so that commands without it start at once.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from babyllm.errors import UserError
from babyllm.runtime.config import RuntimeConfig, check
from babyllm.runtime.device import find_device, find_dtype
from babyllm.runtime.group import joined_group
from babyllm.runtime.launching.place import find_place, goes_on_without_others
from babyllm.runtime.launching.program import tell
from babyllm.runtime.machine import cores, describe, keep_freed_memory
from babyllm.runtime.precision import reading_dtype
from babyllm.runtime.rendezvous import Store
from babyllm.runtime.signals import StopSignal

if TYPE_CHECKING:
    import torch

    from babyllm.runtime.health.pace import Pace
    from babyllm.runtime.watchdog import Watchdog


@dataclass
class Runtime:
    """This process among all processes of the run; made by `start`.

    Attributes:
        device: the device of this process.
        dtype: the dtype of matrix products in training.
        reading_dtype: the dtype of matrix products in inference outside training.
        compile: whether the model is compiled for training; auto is settled by a measurement when training begins.
        compile_backend: backend of `torch.compile`.
        rank: the number of this process, from 0.
        world_size: the number of processes of the run.
        local_rank: the number of this process on its machine, from 0.
        local_world_size: the number of processes on this machine.
        attention: how attention is computed in training, as `RuntimeConfig` says.
        tensor: the number of processes, one after the other, that compute with parts of the same matrices.
        context: the number of such groups, one after the other, that compute with parts of the same rows.
        before_sums: functions called before each sum over ranks, which may wait for what other ranks do before it.
    """

    device: torch.device
    dtype: torch.dtype
    reading_dtype: torch.dtype
    compile: bool | Literal["auto"]
    rank: int
    world_size: int
    local_rank: int
    local_world_size: int
    _stop: StopSignal
    attention: str = "auto"
    compile_backend: str = "inductor"
    tensor: int = 1
    context: int = 1
    before_sums: list[Callable[[], None]] = field(default_factory=list)
    _store: Store | None = None
    _watchdog: Watchdog | None = None
    _firsts: Iterator[int] = field(default_factory=itertools.count)

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which writes files and logs."""
        return self.rank == 0

    @property
    def data_rank(self) -> int:
        """The number of this process, from 0, among those that train on different rows."""
        return self.rank // self.row_ranks

    @property
    def data_ranks(self) -> int:
        """The number of processes that train on different rows."""
        return self.world_size // self.row_ranks

    @property
    def row_ranks(self) -> int:
        """The number of processes, one after the other, that train on the same rows."""
        return self.tensor * self.context

    @property
    def stop_requested(self) -> bool:
        """Whether a stop signal arrived at *this* rank; sum it over ranks. A second SIGINT raises KeyboardInterrupt."""
        return self._stop.is_set

    @cached_property
    def pace(self) -> Pace:
        """The step times of this rank's own work, compared with those of other ranks."""
        from babyllm.runtime.health.pace import Pace

        return Pace(self)

    def forget_stop(self) -> None:
        """Clear the stop signal of this rank, so that the rank goes on."""
        self._stop.is_set = False

    def leave_stopped(self) -> None:
        """End this process after a stop signal that only other machines have received, if torchrun may restart it.

        The exit status 1 makes torchrun begin a round without the machines that leave. Call it after the run's last
        save, outside `start`.

        Raises:
            SystemExit: this machine goes on.
        """
        if self._stop.is_set or not goes_on_without_others():
            return
        if self.local_rank == 0:
            tell("another machine was asked to stop; torchrun goes on from this step without it")
        raise SystemExit(1)

    def autocast(self) -> AbstractContextManager[Any]:
        """A context in which matrix products run in `dtype`."""
        import torch

        if self.dtype is torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, self.dtype)

    def scaler(self) -> torch.amp.GradScaler:
        """A gradient scaler; it has an effect only if `dtype` is float16."""
        import torch

        return torch.amp.GradScaler(self.device.type, enabled=self.dtype is torch.float16)

    def sum(self, values: Sequence[float]) -> list[float]:
        """Each value summed over all ranks in float64, the same bits on every rank; exact for integers up to 2**53.

        It fails if a rank is missing; `start` turns that into a message that names the rank.
        """
        import torch
        import torch.distributed as dist

        total = torch.tensor(values, dtype=torch.float64)
        for wait in self.before_sums:
            wait()
        if self.world_size > 1:
            dist.all_reduce(total)
        return [float(value) for value in total.tolist()]

    def all_equal(self, text: str) -> bool:
        """Whether `text` is the same on every rank; every rank must call it and gets the same answer."""
        digest = hashlib.sha256(text.encode()).digest()
        # Numbers that are the same everywhere have no variance; these are small enough for exact sums of squares.
        numbers = [float(value) for value in digest]
        sums = self.sum([*numbers, *(value * value for value in numbers)])
        n = len(numbers)
        return all(sums[i] ** 2 == self.world_size * sums[n + i] for i in range(n))

    def gather(self, text: str) -> list[str]:
        """The texts of all ranks in their order, the same on every rank; every rank must call it."""
        import torch
        import torch.distributed as dist

        if self.world_size == 1:
            return [text]
        mine = torch.frombuffer(bytearray(text.encode()) or bytearray(1), dtype=torch.uint8)
        own = [0.0] * self.world_size
        own[self.rank] = float(len(text.encode()))
        lengths = [int(length) for length in self.sum(own)]
        parts = [torch.zeros(max(1, *lengths), dtype=torch.uint8) for _ in lengths]
        padded = torch.zeros_like(parts[0])
        padded[: len(mine)] = mine
        dist.all_gather(parts, padded)
        return [bytes(part[:n].tolist()).decode() for part, n in zip(parts, lengths, strict=True)]

    def barrier(self) -> None:
        """Wait until every rank has called this."""
        self.sum([0.0])

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """Run the body on rank 0 first and then on the others, which wait without a time limit.

        If the body fails on rank 0, rank 0 reports why and the others exit silently with status 1.
        """
        if self._store is None:
            yield
            return
        key = self.fresh_key("main_first")
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

    def fresh_key(self, subject: str) -> str:
        """A key for `post` that no earlier call returned, the same on every rank; every rank must call it."""
        return f"{subject}/{next(self._firsts)}"

    def post(self, key: str, text: str) -> None:
        """Leave a text for the other ranks, from any thread."""
        if self._store:
            self._store.set(key, text)

    def posted(self, key: str) -> str | None:
        """The text that some rank has left under `key`; None as long as there is none."""
        return self._store.get(key).decode() if self._store and self._store.check([key]) else None

    def beat(self, step: int) -> None:
        """Report progress to the watchdog: this rank has reached `step` or works on it. Cheap, so call it often."""
        if self._watchdog:
            self._watchdog.beat(step)

    def patience(self) -> AbstractContextManager[None]:
        """A context for long work without beats, such as compiling or saving; only the death of a rank ends it."""
        return self._watchdog.patience() if self._watchdog else nullcontext()


@contextmanager
def start(config: RuntimeConfig, tensor: int = 1, context: int = 1) -> Iterator[Runtime]:
    """Yield the Runtime of this process, from `config` and the environment that torchrun or `launch` has set.

    Without either there is one process. Sets the number of threads, determinism and TF32. While the body runs, stop
    signals are caught and the process belongs to the process group.

    Args:
        config: the section `runtime`.
        tensor: number of processes that share each matrix, as `parallel.tensor`.
        context: number of processes that share each row, as `parallel.context`.

    Raises:
        UserError: the device is not available, the ranks cannot meet, or a rank of the run died.
    """
    import torch

    check(config)
    place, stop = find_place(), StopSignal()
    if place.world_size % (tensor * context):
        given = {"parallel.tensor": tensor, "parallel.context": context}
        names = " times ".join(f"{name}={n}" for name, n in given.items() if n > 1)
        raise UserError(
            f"{names}: does not divide the {place.world_size} processes of the run; "
            "set runtime.processes to a multiple of it"
        )
    with stop.installed():
        device = find_device(config.device, place.local_rank, place.local_world_size)
        # torchrun sets OMP_NUM_THREADS=1, which leaves most cores idle.
        torch.set_num_threads(config.threads or max(1, cores() // place.local_world_size))
        if device.type == "cpu":
            keep_freed_memory()
        if device.type == "cuda":
            torch.set_float32_matmul_precision("high" if config.tf32 else "highest")
        if config.deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        # Setting it takes seconds, because that imports the compiler.
        if config.deterministic != torch.are_deterministic_algorithms_enabled():
            torch.use_deterministic_algorithms(config.deterministic)
        # Compiling for a CPU takes minutes and saves nothing: products are most of the time.
        is_compiled = False if config.compile == "auto" and device.type != "cuda" else config.compile
        runtime = Runtime(
            device,
            find_dtype(config.dtype, device),
            reading_dtype(device, config.dtype),
            is_compiled,
            place.rank,
            place.world_size,
            place.local_rank,
            place.local_world_size,
            stop,
            config.attention,
            config.compile_backend,
            tensor,
            context,
        )
        if place.world_size == 1:
            yield runtime
            return
        with joined_group(device, place, config.timeout_s, stop) as (runtime._store, runtime._watchdog):
            if config.dtype == "auto" and runtime.sum([float(runtime.dtype is torch.float32)])[0]:
                runtime.dtype = torch.float32  # machines, or their measurements, may differ
            yield runtime


def environment() -> dict[str, Any]:
    """The environment of a run as JSON values: versions, machine, commit, number of ranks and threads of each, TF32."""
    import torch

    n_ranks, is_tf32 = find_place().world_size, torch.backends.cuda.matmul.fp32_precision == "tf32"
    return {**describe(), "world_size": n_ranks, "threads": torch.get_num_threads(), "tf32": is_tf32}
