"""Where a process runs: device, dtype, ranks, seeds, the stop signal. The only file that reads the environment.

    with user_errors():                              a user's mistake becomes one line and exit status 1
        with start(config) as runtime:               joins the other ranks, watches them, leaves them
            with runtime.main_first(): ...           rank 0 prepares the data, then everyone opens it
            for step in ...:
                runtime.beat(step)                   a rank that hangs is named and the run ends (`babyllm.watchdog`)
                seed_all(seed, step, runtime.rank)   dropout is a pure function of these integers
                with runtime.autocast(): ...
                runtime.sum([loss, tokens, runtime.stop_requested])

torch is imported where it is used, so that commands which need none of it start at once.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Literal

from babyllm.errors import UserError
from babyllm.machine import cores, describe, keep_freed_memory, multiplies_bfloat16
from babyllm.machine import device_memory as device_memory
from babyllm.machine import memory_bytes as memory_bytes
from babyllm.machine import peak_flops as peak_flops

if TYPE_CHECKING:
    import torch
    from torch.distributed.distributed_c10d import Store

    from babyllm.watchdog import Watchdog

# Collectives give up this many times later than the watchdog, which alone can tell which rank is to blame.
_BACKSTOP = 10
# How long ranks that are not first on their machine keep an error back while the first may tell the same.
_ECHO_S = 3.0
_STARTS = itertools.count()


@dataclass(frozen=True)
class RuntimeConfig:
    """Where and how a process computes.

    Attributes:
        device: cpu, cuda, mps, or auto for the first of cuda, mps, cpu that is there.
        dtype: of matrix products; weights and sums stay float32. auto takes bfloat16 where the hardware multiplies it
            natively, float16 on other CUDA devices, else float32.
        compile: compile the model for training; auto where it pays.
        deterministic: the same bits on every run on the same machine; slower on CUDA.
        timeout_s: a rank that dies or makes no progress for this long ends the run with a message that names it.
        threads: CPU threads of each process; default: its share of the cores.
    """

    device: str = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    compile: bool | Literal["auto"] = "auto"
    deterministic: bool = False
    timeout_s: float = 300
    threads: int | None = None


class _StopSignal:
    """Remembers that SIGTERM or SIGINT came, so that the loop can finish its step and save."""

    def __init__(self) -> None:
        self.is_set = False
        self._pid = os.getpid()

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Catch the signals while the body runs; not outside the main thread, where Python allows no handlers."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        old = {signum: signal.signal(signum, self._receive) for signum in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for signum, handler in old.items():
                signal.signal(signum, handler)

    def _receive(self, signum: int, frame: FrameType | None) -> None:
        if os.getpid() != self._pid:  # a forked worker inherits the handler, but terminating it must end it
            signal.signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)
        if signum == signal.SIGINT and self.is_set:
            raise KeyboardInterrupt
        self.is_set = True


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
    _stop: _StopSignal
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

    def forget_stop(self) -> None:
        """Go on as if no signal had come to this rank."""
        self._stop.is_set = False

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
    device = _device(config.device, local_rank, local_world_size)
    # torchrun sets OMP_NUM_THREADS=1, which leaves most cores idle.
    torch.set_num_threads(config.threads or max(1, cores() // local_world_size))
    if device.type == "cpu":
        keep_freed_memory()
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if config.deterministic != torch.are_deterministic_algorithms_enabled():  # setting it imports the compiler: seconds
        torch.use_deterministic_algorithms(config.deterministic)
    is_compiled = compile_pays(device) if config.compile == "auto" else config.compile
    dtype, stop = _dtype(config.dtype, device), _StopSignal()
    runtime = Runtime(device, dtype, is_compiled, rank, world_size, local_rank, local_world_size, stop)
    with ExitStack() as stack:
        stack.enter_context(stop.installed())
        if world_size > 1:
            runtime._store, runtime._watchdog = stack.enter_context(_group(device, rank, world_size, config.timeout_s))
        yield runtime


@contextmanager
def _group(device: torch.device, rank: int, world_size: int, timeout_s: float) -> Iterator[tuple[Store, Watchdog]]:
    """Join the process group and watch it while the body runs; say which rank is missing when a collective fails."""
    import torch.distributed as dist
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    from babyllm import watchdog as wd

    absent = ", ".join(name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ)
    if absent:
        raise UserError(f"WORLD_SIZE={world_size} but {absent} is not set: start with torchrun, or set all of them")
    address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    try:
        store, _, _ = next(rendezvous("env://", timeout=timedelta(seconds=timeout_s)))
    except dist.DistError as error:
        reason = f"within {timeout_s:g} s: {str(error).splitlines()[0]}"
        raise UserError(f"rank {rank} of {world_size} could not meet the others at {address} {reason}") from error
    # Names of an earlier `start` in the same processes would be found again otherwise.
    store = PrefixStore(f"run{next(_STARTS)}", store)
    keeps_store = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    watchdog = wd.Watchdog(store, rank, world_size, timeout_s, address, keeps_store)
    watchdog.join()
    watchdog.run()
    try:
        dist.init_process_group(
            # Counts and flags travel as CPU tensors over gloo, so that summing them never waits for the GPU.
            "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
            store=store,
            rank=rank,
            world_size=world_size,
            timeout=timedelta(seconds=_BACKSTOP * timeout_s),
            device_id=device if device.type == "cuda" else None,
        )
        yield store, watchdog
    except BaseException as error:
        is_broken = isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))
        line = watchdog.explain() if is_broken else None
        watchdog.close(wd.FAILED if line is None else wd.STOPPING)
        # The group is left to the end of the process: taking it down here would break the others' collectives before
        # this rank has told its error, and may itself wait for a rank that is gone.
        if line is None:
            raise
        if not line:
            raise SystemExit(1) from error
        raise UserError(line) from error
    watchdog.close(wd.DONE)
    dist.destroy_process_group()


def device_type(name: str) -> str:
    """What `runtime.device` means on this machine: cpu, cuda or mps.

    Raises:
        UserError: there is no such device.
    """
    import torch

    if name not in ("auto", "cpu", "cuda", "mps"):
        raise UserError(f"runtime.device={name}: choose auto, cpu, cuda or mps")
    if name != "auto":
        return name
    return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"


def _device(name: str, local_rank: int, local_world_size: int) -> torch.device:
    import torch

    name = device_type(name)
    if name == "mps" and not torch.backends.mps.is_available():
        raise UserError("runtime.device=mps: this machine or PyTorch build has no Apple GPU; use --runtime.device=cpu")
    if name != "cuda":
        return torch.device(name)
    if not torch.cuda.is_available():
        build = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "a build without CUDA"
        raise UserError(
            f"runtime.device=cuda: no CUDA device is visible; PyTorch {torch.__version__} is {build}; "
            "check nvidia-smi, or use --runtime.device=cpu"
        )
    n_gpus = torch.cuda.device_count()
    if local_rank >= n_gpus:
        raise UserError(
            f"runtime.device=cuda: {local_world_size} processes on this machine but {n_gpus} visible CUDA devices: "
            f"use --nproc_per_node={n_gpus} or --runtime.device=cpu"
        )
    device = torch.device("cuda", local_rank)
    torch.cuda.set_device(device)
    return device


def _dtype(name: str, device: torch.device) -> torch.dtype:
    import torch

    if name != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    if device.type == "cpu":
        return torch.bfloat16 if multiplies_bfloat16() else torch.float32  # emulated, it is the slower one
    # Apple GPUs gain little from 16 bits, and what autocast covers there differs between releases of PyTorch.
    return torch.float32


def compile_pays(device: torch.device) -> bool:
    """Whether compiling the model for `device` wins back its own time on ordinary runs."""
    return device.type == "cuda"


def derive_seed(*keys: int) -> int:
    """A seed in 0 .. 2**63-1 that depends on every key and on their order.

    Args:
        keys: signed 64-bit integers, such as (seed, step, rank, micro-batch).
    """
    digest = hashlib.blake2b(b"".join(key.to_bytes(8, "little", signed=True) for key in keys), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def seed_all(seed: int, *keys: int) -> None:
    """Seed torch's generators on CPU and GPU from integers alone: equal keys give equal dropout after a resume."""
    import torch

    torch.manual_seed(derive_seed(seed, *keys))


def environment() -> dict[str, Any]:
    """What a run is made with, as JSON values: versions, machine, number of ranks and the commit of the source."""
    return {**describe(), "world_size": int(os.environ.get("WORLD_SIZE", 1))}


@contextmanager
def user_errors(argv: Sequence[str] | None = None) -> Iterator[None]:
    """Turn a UserError in the body into `program: message` on stderr and exit status 1; --debug adds the traceback.

    Ctrl-C exits with 130 and a reader that closed our output with 141, both silently. The first rank of each machine
    tells its error at once. The others keep theirs back for a moment and then tell it as `rank N: message`, unless
    torchrun has ended them: an error that all share appears once, and one that only they have still appears.
    """
    argv = sys.argv if argv is None else argv
    program = Path(argv[0])
    name = program.parent.name if program.name == "__main__.py" else program.name
    try:
        yield
        sys.stdout.flush()  # so that a closed pipe shows here and not while the interpreter ends
    except UserError as error:
        if int(os.environ.get("LOCAL_RANK", 0)) > 0:
            time.sleep(_ECHO_S)
        rank = os.environ.get("RANK", "0")
        if "--debug" in argv:
            traceback.print_exc()
        message = " ".join(str(error).split("\n"))
        print(f"{name}: {message}" if rank == "0" else f"{name}: rank {rank}: {message}", file=sys.stderr, flush=True)
        raise SystemExit(1) from None
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(141) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


@contextmanager
def ordinary_signals() -> Iterator[None]:
    """Let Ctrl-C raise and SIGTERM end the process, for work that does not look at `Runtime.stop_requested`."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    old = {
        signal.SIGINT: signal.signal(signal.SIGINT, signal.default_int_handler),
        signal.SIGTERM: signal.signal(signal.SIGTERM, signal.SIG_DFL),
    }
    try:
        yield
    finally:
        for signum, handler in old.items():
            signal.signal(signum, handler)
