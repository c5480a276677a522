"""The section `runtime` of a configuration."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

from babyllm.config.values import Count, PositiveSeconds
from babyllm.config.values import check as check_limits
from babyllm.errors import UserError

# More threads or processes than this on each logical core never help, and too many bring a machine down.
_MAX_PER_CORE = 8


@dataclass(frozen=True)
class RuntimeConfig:
    """Where and how a process computes.

    Attributes:
        device: cpu, cuda, mps, or auto for the first of cuda, mps, cpu that is there.
        dtype: of matrix products; weights and sums stay float32. auto takes bfloat16 where the hardware multiplies it
            natively, float16 on other CUDA devices, else float32. A model that is read and not trained stays float32
            on a CPU, where only a type named here changes that.
        compile: compile the model for training; auto where it pays.
        deterministic: the same bits on every run on the same machine; slower on CUDA.
        timeout_s: a rank that dies or makes no progress for this long ends the run with a message that names it.
        threads: CPU threads of each process; default: its share of the cores.
        processes: how many work on this machine: by default one per GPU or, on a CPU, per physical core, at most 4, as
            far as data.global_batch can be divided among them; a run keeps its number. Under torchrun what that says.
    """

    device: str = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    compile: bool | Literal["auto"] = "auto"
    deterministic: bool = False
    timeout_s: PositiveSeconds = 300
    threads: Count | None = None
    processes: Count | None = None


def check(config: RuntimeConfig) -> None:
    """See that the numbers of the section are possible on a machine.

    Raises:
        UserError: one is not.
    """
    check_limits(config, "runtime.")
    most = _MAX_PER_CORE * (os.cpu_count() or 1)
    for name, number in (("threads", config.threads), ("processes", config.processes)):
        if number is not None and number > most:
            raise UserError(f"runtime.{name}={number}: must be at most {most} on this machine")
