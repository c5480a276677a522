"""The section `runtime` of a configuration, and the sections `cache` of local copies of remote files."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Annotated, Literal

from babyllm.config.values import MAX_COUNT, Count, Limits, PathText, PositiveSeconds, expand_paths
from babyllm.config.values import check as check_limits
from babyllm.errors import UserError

# More threads or processes than this on each logical core never help. Too many bring a machine down.
_MAX_PER_CORE = 8


@dataclass(frozen=True)
class RuntimeConfig:
    """Where and how a process computes.

    Attributes:
        device: cpu, cuda or mps; auto is the first of cuda, mps and cpu that is available.
        dtype: type of the numbers in matrix products; weights and sums stay float32. auto is bfloat16 on a GPU that
            multiplies it natively, float16 on other CUDA devices, else float32; in training on a CPU it is the faster
            of bfloat16 and float32, measured once.
        compile: whether to compile the model for training. auto measures on a GPU, once for each shape, and does not
            compile on a CPU.
        compile_backend: backend of torch.compile.
        attention: how a model in training computes attention: fused, by PyTorch's kernel, or blocks, by products of
            blocks of 64 queries, which keeps half of rows x heads x seq_len^2 numbers a layer; or documents, as fused,
            and in packed rows each document by itself. auto takes documents for packed rows of 512 tokens or more; for
            others it measures fused and blocks on a CPU. A run keeps the form it began with.
        tf32: whether matrix products of float32 numbers are rounded to TensorFloat-32 on CUDA, which is several times
            as fast and keeps 10 of 23 bits; it changes nothing in 16 bits or on other devices.
        deterministic: whether runs on the same machine compute the same bits; slower on CUDA.
        timeout_s: seconds after which a rank without progress ends the run; a message names the rank.
        threads: CPU threads of each process; default: its share of the cores.
        processes: number of processes on this machine. The default is one per GPU, or on a CPU one per physical core
            and at most 4; data.global_batch must divide evenly among them, and parallel.tensor and the like must divide
            their number. A resumed run keeps its number. Under torchrun it is torchrun's number.
    """

    device: str = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    compile: bool | Literal["auto"] = "auto"
    compile_backend: Literal["inductor", "cudagraphs", "aot_eager", "eager"] = "inductor"
    attention: Literal["auto", "fused", "blocks", "documents"] = "auto"
    tf32: bool = False
    deterministic: bool = False
    timeout_s: PositiveSeconds = 300
    threads: Count | None = None
    processes: Count | None = None


def check(config: RuntimeConfig) -> None:
    """Check that this machine allows the numbers of the section.

    Raises:
        UserError: a number is beyond its limits.
    """
    check_limits(config, "runtime.")
    most = _MAX_PER_CORE * (os.cpu_count() or 1)
    for name, number in (("threads", config.threads), ("processes", config.processes)):
        if number is not None and number > most:
            raise UserError(f"runtime.{name}={number}: must be at most {most} on this machine")


CacheBytes = Annotated[int, Limits(16 << 20, MAX_COUNT)]


@dataclass(frozen=True)
class CacheConfig:
    """Local copies of files in object stores.

    Attributes:
        directory: directory of the copies, and of unfinished outputs; null takes ~/.cache/babyllm/objects.
        bytes: bytes that the copies may take; those not used for longest are deleted first.
    """

    directory: PathText | None = None
    bytes: CacheBytes = 64 << 30

    def __post_init__(self) -> None:
        """Expand `~` in paths."""
        expand_paths(self)
