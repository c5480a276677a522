"""The device of a process, and the dtype of its products in training."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING

from babyllm.errors import UserError
from babyllm.runtime.machine import cpu_model
from babyllm.runtime.precision import reading_dtype

if TYPE_CHECKING:
    import torch

_ALLOCATOR = {"PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"}
_TURNS = 8
_GAIN = 0.8  # share of float32's time below which bfloat16 is worth its rounding and its casts


def device_type(name: str) -> str:
    """The type of device that `runtime.device` means on this machine: cpu, cuda or mps.

    Raises:
        UserError: `name` is not a type of device.
    """
    import torch

    if name not in ("auto", "cpu", "cuda", "mps"):
        raise UserError(f"runtime.device={name}: choose auto, cpu, cuda or mps")
    if name != "auto":
        return name
    return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"


def find_device(name: str, local_rank: int, local_world_size: int) -> torch.device:
    """The device of a rank; a CUDA device becomes the current one.

    Raises:
        UserError: the device is not available.
    """
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
    settle_allocator()
    device = torch.device("cuda", local_rank)
    torch.cuda.set_device(device)
    return device


def settle_allocator() -> None:
    """Let CUDA's memory grow in place, unless the user has set how it is allocated; before CUDA starts.

    Else micro-batches of many lengths leave gaps that none of them fits.
    """
    if sys.platform == "linux" and not _ALLOCATOR & os.environ.keys():
        os.environ["PYTORCH_ALLOC_CONF"] = "expandable_segments:True"


def find_dtype(name: str, device: torch.device) -> torch.dtype:
    """The dtype of matrix products that `runtime.dtype` means for training on `device`; auto measures on a CPU."""
    import torch

    if name == "auto" and device.type == "cpu":
        from babyllm.runtime.measured import remembered  # the help of a script does without

        key = f"dtype, {torch.get_num_threads()} x {cpu_model()}, {torch.__version__}"
        return torch.bfloat16 if remembered(key, _faster_dtype) == "bfloat16" else torch.float32
    return reading_dtype(device, name)


def _faster_dtype() -> str:
    """The dtype whose products are faster on this CPU, by a measurement of some hundredths of a second."""
    import torch

    seconds = {}
    for name in ("float32", "bfloat16"):
        one, two = torch.ones(2, 512, 512, dtype=getattr(torch, name)).unbind()
        seconds[name] = min(_timed(one, two) for _ in range(_TURNS))
    return "bfloat16" if seconds["bfloat16"] < _GAIN * seconds["float32"] else "float32"


def _timed(one: torch.Tensor, two: torch.Tensor) -> float:
    began = time.perf_counter()
    _ = one @ two
    return time.perf_counter() - began
