"""Multiply one fixed weight matrix by small batches, with the fastest kernel for each batch size.

Legend: R rows, I inputs, O outputs.
"""

from __future__ import annotations

import threading

import torch
from torch import Tensor
from torch.nn import functional as F

from babyllm.runtime.machine import multiplies_bfloat16

# With up to this many rows, a product with a plain float32 matrix is already limited by the CPU's memory bandwidth.
_FEW = 3
# The most rows a packed copy is made for. With more rows an unpacked matrix costs little more.
_MOST_PACKED = 16
# From this many rows on, arithmetic limits a product, and the ordinary kernel is as fast as any.
_MANY = 64
# Products with a multiple of this many rows take up to a third less time than those with a few rows less.
_STEP = 8
# From this many rows on, it pays to convert an int8 matrix first.
_MANY_INT8 = 32
# With more than this many rows, it pays to convert a bfloat16 matrix first, on a CPU that cannot multiply it.
_FEW_BFLOAT16 = 3
# Numbers of a matrix that are converted at a time: 4 MB, which stay in the processor's cache.
_BLOCK = 1 << 20
_of_thread = threading.local()


class Matrix:
    """A weight matrix (O, I) that is multiplied by rows again and again.

    On CPUs where PyTorch includes MKL, a float32 matrix for more than a few rows at a time is also kept as a packed
    copy. The copy takes as much memory as the matrix, and products take 0.6 of the time.
    """

    def __init__(self, weight: Tensor, rows: int, scales: Tensor | None = None) -> None:
        """Prepare for products with up to `rows` rows; more rows are possible, but slower.

        Args:
            weight: (O, I) in the dtype of the rows, or int8.
            rows: largest number of rows in most products.
            scales: (O,) scale of each row of an int8 matrix; None for any other matrix.
        """
        self._weight, self._transposed = weight, weight.T
        self._scales = None if scales is None else scales.bfloat16()
        self._is_cpu = weight.device.type == "cpu"
        self._is_float = weight.dtype == torch.float32
        self._is_emulated = self._is_cpu and not multiplies_bfloat16()
        # The int8 operator reads 16 inputs at a time, past the end if the count is not a multiple of 16.
        is_whole = weight.shape[1] % 16 == 0
        self._has_operator = self._is_cpu and is_whole and hasattr(torch, "_weight_int8pack_mm")
        self._n_packed = 0
        if self._is_cpu and self._is_float and rows > _FEW and _can_pack():
            self._n_packed = min(rows, _MOST_PACKED)
            self._packed: Tensor = torch.ops.mkl._mkl_reorder_linear_weight(weight, self._n_packed)

    def __call__(self, x: Tensor) -> Tensor:
        """The product (R, O) of rows (R, I) with the transposed matrix, in the dtype of the rows."""
        n = len(x)
        if self._scales is not None:
            if n < _MANY_INT8 and self._has_operator:
                return torch._weight_int8pack_mm(x.bfloat16(), self._weight, self._scales).to(x.dtype)
            y = self._in_blocks(x) if self._is_emulated else torch.mm(x, self._transposed.to(x.dtype))
            return (y * self._scales).to(x.dtype)
        if self._is_cpu and self._is_float and _FEW < n < _MANY:
            if n > self._n_packed:
                return torch.mm(self._weight, F.pad(x, (0, 0, 0, -n % _STEP)).T).T[:n]
            if n < self._n_packed:  # a packed copy needs exactly as many rows as it was made for
                x = F.pad(x, (0, 0, 0, self._n_packed - n))
            packed: Tensor = torch.ops.mkl._mkl_linear(x, self._packed, self._weight, None, self._n_packed)
            return packed[:n]
        if self._is_emulated and not self._is_float and n > _FEW_BFLOAT16:
            return self._in_blocks(x).to(x.dtype)
        return torch.mm(x, self._transposed)

    def _in_blocks(self, x: Tensor) -> Tensor:
        """The product in float32, without scales; the matrix is converted block by block."""
        n_outputs, n_inputs = self._weight.shape
        blocks, columns = torch.split(self._weight, max(1, _BLOCK // n_inputs)), x.float().T
        wide, out = _scratch(len(blocks[0]) * n_inputs).view(-1, n_inputs), torch.empty(n_outputs, len(x))
        for block, part in zip(blocks, torch.split(out, len(blocks[0])), strict=True):
            torch.mm(wide[: len(block)].copy_(block), columns, out=part)
        return out.T


def _scratch(size: int) -> Tensor:
    """A float32 tensor (size,) of this thread, which is used again: new memory would cost more than the product."""
    held: Tensor | None = getattr(_of_thread, "scratch", None)
    if held is None or len(held) < size:
        with torch.inference_mode(False):
            held = _of_thread.scratch = torch.empty(max(size, _BLOCK))
    return held[:size]


def _can_pack() -> bool:
    """Whether PyTorch has the two operators for packed matrices; they are private and may disappear."""
    return all(hasattr(torch.ops.mkl, name) for name in ("_mkl_reorder_linear_weight", "_mkl_linear"))
