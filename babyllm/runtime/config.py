"""The section `runtime` of a configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


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
