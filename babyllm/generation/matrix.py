"""Products of a matrix that stays as it is with few rows at a time, each done in the way that is fastest for so many.

Legend: R rows, I inputs, O outputs.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from babyllm.machine import multiplies_bfloat16
from babyllm.model.int8 import dequantise

# For up to so many rows a CPU reads a float32 matrix as it stands as fast as memory gives it.
_FEW = 3
# Rows a packed copy is made for, at most; more of them make up for reading a matrix that is not packed.
_MOST_PACKED = 16
# From so many rows on products are limited by arithmetic, and the usual one is as good as any.
_MANY = 64
# Rows from which on it pays to convert a bfloat16 matrix for a processor that cannot multiply it.
_MANY_EMULATED = 32
# Rows from which on it pays to make an int8 matrix a plain one again.
_MANY_INT8 = 32


class Matrix:
    """A matrix (O, I) whose products with rows are asked for again and again.

    On CPUs where PyTorch comes with MKL, a float32 matrix that is to meet more than a few rows at a time is also kept
    as a packed copy, which takes its size in memory once more and two thirds of the time.
    """

    def __init__(self, weight: Tensor, rows: int, scales: Tensor | None = None) -> None:
        """Get ready for products with up to `rows` rows, and more now and then.

        Args:
            weight: (O, I) of the rows' type, or int8.
            rows: of most products.
            scales: (O,) bfloat16, of an int8 matrix.
        """
        self._weight, self._transposed = weight, weight.T
        self._scales = None if scales is None else scales.bfloat16()
        self._is_plain = weight.device.type != "cpu"
        # On a CPU the operator reads 16 inputs at a time, and beyond the end where they are no multiple of that.
        self._fits_int8 = not self._is_plain and weight.shape[1] % 16 == 0
        self._is_float = weight.dtype == torch.float32
        self._is_emulated = weight.dtype == torch.bfloat16 and not multiplies_bfloat16()
        self._n_packed = 0
        if not self._is_plain and self._is_float and rows > _FEW and _can_pack():
            self._n_packed = min(rows, _MOST_PACKED)
            self._packed: Tensor = torch.ops.mkl._mkl_reorder_linear_weight(weight, self._n_packed)

    def __call__(self, x: Tensor) -> Tensor:
        """(R, I) -> (R, O), of one type."""
        n = len(x)
        if self._scales is not None:
            if n < _MANY_INT8 and self._fits_int8:
                return torch._weight_int8pack_mm(x.bfloat16(), self._weight, self._scales).to(x.dtype)
            return F.linear(x, dequantise(self._weight, self._scales, x.dtype))
        if self._is_plain or n == 1:
            return torch.mm(x, self._transposed)
        if self._is_float and _FEW < n < _MANY:
            if n <= self._n_packed:  # a packed copy takes the rows it was made for, no fewer
                x = F.pad(x, (0, 0, 0, self._n_packed - n))
                y: Tensor = torch.ops.mkl._mkl_linear(x, self._packed, self._weight, None, self._n_packed)
                return y[:n]
            return torch.mm(self._weight, x.T).T
        if self._is_emulated and n >= _MANY_EMULATED:
            return F.linear(x.float(), self._weight.float()).to(x.dtype)
        return torch.mm(x, self._transposed)


def _can_pack() -> bool:
    """Whether PyTorch was built with the two operators for packed matrices, which are private in it and may go."""
    return all(hasattr(torch.ops.mkl, name) for name in ("_mkl_reorder_linear_weight", "_mkl_linear"))
