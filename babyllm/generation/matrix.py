"""Products of a matrix that stays as it is with few rows at a time, each done in the way that is fastest for so many.

Legend: R rows, I inputs, O outputs.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from babyllm.runtime.machine import multiplies_bfloat16

# For up to so many rows a CPU reads a float32 matrix as it stands as fast as memory gives it.
_FEW = 3
# Rows a packed copy is made for, at most; more of them make up for reading a matrix that is not packed.
_MOST_PACKED = 16
# From so many rows on products are limited by arithmetic, and the usual one is as good as any.
_MANY = 64
# Rows from which on it pays to convert an int8 matrix, or a bfloat16 one for a CPU that cannot multiply it, once.
_MANY_CONVERTED = 32


class Matrix:
    """A matrix (O, I) whose products with rows are asked for again and again.

    On CPUs where PyTorch comes with MKL, a float32 matrix that is to meet more than a few rows at a time is also kept
    as a packed copy, which takes its size in memory once more and 0.6 of the time.
    """

    def __init__(self, weight: Tensor, rows: int, scales: Tensor | None = None) -> None:
        """Get ready for products with up to `rows` rows, and more now and then.

        Args:
            weight: (O, I) of the rows' type, or int8.
            rows: of most products.
            scales: (O,) of an int8 matrix.
        """
        self._weight, self._transposed = weight, weight.T
        self._scales = None if scales is None else scales.bfloat16()
        self._is_cpu = weight.device.type == "cpu"
        self._is_float = weight.dtype == torch.float32
        self._is_emulated = self._is_cpu and not multiplies_bfloat16()
        # The operator for int8 reads 16 inputs at a time, and beyond the end where they are no multiple of that.
        is_whole = weight.shape[1] % 16 == 0
        self._has_operator = self._is_cpu and is_whole and hasattr(torch, "_weight_int8pack_mm")
        self._n_packed = 0
        if self._is_cpu and self._is_float and rows > _FEW and _can_pack():
            self._n_packed = min(rows, _MOST_PACKED)
            self._packed: Tensor = torch.ops.mkl._mkl_reorder_linear_weight(weight, self._n_packed)

    def __call__(self, x: Tensor) -> Tensor:
        """(R, I) -> (R, O), of one type."""
        n = len(x)
        if self._scales is not None:
            if n < _MANY_CONVERTED and self._has_operator:
                return torch._weight_int8pack_mm(x.bfloat16(), self._weight, self._scales).to(x.dtype)
            return (self._converted(x) * self._scales).to(x.dtype)
        if self._is_cpu and self._is_float and _FEW < n < _MANY:
            if n > self._n_packed:
                return torch.mm(self._weight, x.T).T
            x = F.pad(x, (0, 0, 0, self._n_packed - n))  # a packed copy takes the rows it was made for, no fewer
            y: Tensor = torch.ops.mkl._mkl_linear(x, self._packed, self._weight, None, self._n_packed)
            return y[:n]
        if self._is_emulated and not self._is_float and n >= _MANY_CONVERTED:
            return self._converted(x).to(x.dtype)
        return torch.mm(x, self._transposed)

    def _converted(self, x: Tensor) -> Tensor:
        """The product with the matrix in the rows' type, or in float32 where that is faster."""
        dtype = torch.float32 if self._is_emulated else x.dtype
        return torch.mm(x.to(dtype), self._transposed.to(dtype))


def _can_pack() -> bool:
    """Whether PyTorch was built with the two operators for packed matrices, which are private in it and may go."""
    return all(hasattr(torch.ops.mkl, name) for name in ("_mkl_reorder_linear_weight", "_mkl_linear"))
