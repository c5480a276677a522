"""The SwiGLU activation, with a backward pass that writes both gradients into one tensor.

`plain_swiglu` is the formula.
Legend: F hidden width of the MLP.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


def plain_swiglu(gate_up: Tensor) -> Tensor:
    """What `swiglu` computes: (..., 2 F) -> (..., F)."""
    gate, up = gate_up.chunk(2, dim=-1)
    return gate * gate.sigmoid() * up


def swiglu(gate_up: Tensor) -> Tensor:
    """silu(gate) * up (Shazeer 2020, equation 6).

    Args:
        gate_up: (..., 2 F), gate and up side by side.

    Returns:
        (..., F).
    """
    activated: Tensor = _SwiGLU.apply(gate_up)  # type: ignore[no-untyped-call]
    return activated


class _SwiGLU(torch.autograd.Function):
    """(..., 2 F) -> (..., F)."""

    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        gate, up = gate_up.chunk(2, dim=-1)
        opened = functional.silu(gate)
        ctx.save_for_backward(gate_up, opened)
        return opened * up

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        gate_up, opened = ctx.saved_tensors
        gate, up = gate_up.chunk(2, dim=-1)
        d_gate_up = torch.empty_like(gate_up)
        d_gate, d_up = d_gate_up.chunk(2, dim=-1)
        torch.mul(grads[0], opened, out=d_up)
        torch.ops.aten.silu_backward.grad_input(grads[0] * up, gate, grad_input=d_gate)
        return d_gate_up
