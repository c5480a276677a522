"""In what type of numbers a model is read: by generation, the server and evaluation, from commands and Python alike.

an autocast around the call decides; else what --runtime.dtype names; else what suits the device
    CPU, Apple GPU                          float32: 16 bits change log-probabilities by hundredths of a nat
    CUDA that multiplies bfloat16 natively  bfloat16
    other CUDA                              float16

A model is trained in the same types but on a CPU (`Runtime.dtype`), and so is what reads it within a run. torch is
imported where it is used, so that commands which need none of it start at once.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def reading_dtype(device: torch.device, name: str = "auto") -> torch.dtype:
    """The type of the products of a model that is read and not trained.

    Args:
        device: it is on.
        name: float32, bfloat16, float16, or auto for what suits the device.
    """
    import torch

    if name != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]
    # Apple GPUs gain little from 16 bits, and what autocast covers there differs between releases of PyTorch.
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def dtype_here(weight: torch.Tensor) -> torch.dtype:
    """The type to read in at this place: that of an autocast around it, else of weights in 16 bits, else automatic."""
    import torch

    device = weight.device
    if torch.is_autocast_enabled(device.type):
        return torch.get_autocast_dtype(device.type)
    return reading_dtype(device) if weight.dtype is torch.float32 else weight.dtype


def reads_in(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[Any]:
    """A context in which a model on `device` is read in `dtype`, unless an autocast around it decides otherwise."""
    import torch

    if torch.is_autocast_enabled(device.type) or (dtype is torch.float32 and device.type != "cuda"):
        return nullcontext()
    # On CUDA float32, too, is said by an autocast, since what is automatic there has 16 bits.
    return torch.autocast(device.type, dtype)


def dtype_name(dtype: torch.dtype) -> str:
    """The name of a type as `--runtime.dtype` has it."""
    return str(dtype).removeprefix("torch.")
