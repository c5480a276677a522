"""The SwiGLU activation, with a backward pass that writes both gradients into one tensor.

    gate_up -> swiglu -> activated copy
    gate_up -> swiglu_product -> product of the activated copy, which is computed again in the backward pass

`plain_swiglu` is the formula.
Legend: F hidden width of the MLP, O outputs of a product.
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


def swiglu_product(gate_up: Tensor, weight: Tensor) -> Tensor:
    """The product swiglu(gate_up) W^T: (..., 2 F), W (O, F) of the same type -> (..., O).

    Only `gate_up` is kept for the backward pass, which activates it again: bit for bit the same gradients.
    """
    product: Tensor = _SwiGLUProduct.apply(gate_up, weight)  # type: ignore[no-untyped-call]
    return product


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
        return _gradient(grads[0], *ctx.saved_tensors)


class _SwiGLUProduct(torch.autograd.Function):
    """(..., 2 F), weight (O, F) -> (..., O)."""

    @staticmethod
    def forward(ctx: Any, gate_up: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(gate_up, weight)
        gate, up = gate_up.chunk(2, dim=-1)
        return functional.linear(functional.silu(gate).mul_(up), weight)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor | None]:
        gate_up, weight = ctx.saved_tensors
        gate, up = gate_up.chunk(2, dim=-1)
        opened, d_activated = functional.silu(gate), grads[0] @ weight
        d_gate_up, d_weight = _gradient(d_activated, gate_up, opened, out=d_activated), None
        if ctx.needs_input_grad[1]:
            d_weight = grads[0].flatten(0, -2).t() @ opened.mul_(up).flatten(0, -2)
        return d_gate_up, d_weight


def _gradient(grad: Tensor, gate_up: Tensor, opened: Tensor, out: Tensor | None = None) -> Tensor:
    """The gradient (..., 2 F) of `gate_up`, from that of the activated copy (..., F); `opened` is silu(gate).

    `out` (..., F), which may be `grad`, is overwritten.
    """
    gate, up = gate_up.chunk(2, dim=-1)
    d_gate_up = torch.empty_like(gate_up)
    d_gate, d_up = d_gate_up.chunk(2, dim=-1)
    torch.mul(grad, opened, out=d_up)
    torch.ops.aten.silu_backward.grad_input(torch.mul(grad, up, out=out), gate, grad_input=d_gate)
    return d_gate_up
