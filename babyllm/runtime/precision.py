"""The dtype of a model in inference: in generation, the server and evaluation, from commands and from Python.

An autocast around the call decides. Without one --runtime.dtype decides, whose default depends on the device:
    CPU, Apple GPU                          float32: 16 bits change log-probabilities by hundredths of a nat
    CUDA that multiplies bfloat16 natively  bfloat16
    other CUDA                              float16

Training uses the same types, but on a CPU it may use bfloat16 (`Runtime.dtype`). Evaluation within a run uses the
dtype of training. torch is imported inside functions, so that commands without it start at once.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def reading_dtype(device: torch.device, name: str = "auto") -> torch.dtype:
    """The dtype of matrix products in inference.

    Args:
        device: the device of the model.
        name: float32, bfloat16 or float16; auto depends on the device.
    """
    import torch

    if name != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]
    # Apple GPUs gain little from 16 bits, and releases of PyTorch differ in what autocast covers there.
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def dtype_here(weight: torch.Tensor) -> torch.dtype:
    """The dtype for inference with `weight` here.

    It is the autocast's where one is active, the weight's own where that has 16 bits, else the device's default.
    """
    import torch

    device = weight.device
    if torch.is_autocast_enabled(device.type):
        return torch.get_autocast_dtype(device.type)
    return reading_dtype(device) if weight.dtype is torch.float32 else weight.dtype


def reads_in(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[Any]:
    """A context in which a model on `device` computes in `dtype`; an autocast around it takes precedence."""
    import torch

    if torch.is_autocast_enabled(device.type) or (dtype is torch.float32 and device.type != "cuda"):
        return nullcontext()
    # On CUDA float32 needs an autocast too, since the default there has 16 bits.
    return torch.autocast(device.type, dtype)


def dtype_name(dtype: torch.dtype) -> str:
    """The name of a dtype as `--runtime.dtype` spells it."""
    return str(dtype).removeprefix("torch.")
