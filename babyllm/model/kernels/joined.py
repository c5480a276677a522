"""The product of layers that share an input, with weights that are joined for each pass and not kept between passes.

    x, weights -> joined_product -> their outputs side by side

Joined weights kept for the backward pass would be a copy of most of the model, also where the weights themselves are
gathered for one block at a time.
Legend: I inputs, O outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


def joined_product(x: Tensor, bias: Tensor | None, weights: Sequence[Tensor]) -> Tensor:
    """The product x W^T + bias, where W is weights one below the other.

    Args:
        x: (..., I).
        bias: (sum of O,) or None, in the type of `x`.
        weights: (O, I) each.

    Returns:
        (..., sum of O), in the type of `x`.
    """
    product: Tensor = _JoinedProduct.apply(x, bias, *weights)  # type: ignore[no-untyped-call]
    return product


class _JoinedProduct(torch.autograd.Function):
    """x (..., I), bias (sum of O,) or None, weights (O, I) -> (..., sum of O)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor | None, *weights: Tensor) -> Tensor:
        ctx.save_for_backward(x if any(weight.requires_grad for weight in weights) else None, *weights)
        ctx.shape, ctx.dtype = x.shape, x.dtype
        return functional.linear(x, joined(weights, x.dtype), bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, *weights = ctx.saved_tensors
        needs_x, needs_bias, *needs = ctx.needs_input_grad
        grad = grads[0].flatten(0, -2)
        d_weights = gradients(grad, x.flatten(0, -2), weights, needs) if any(needs) else [None] * len(weights)
        d_bias = grad.sum(0) if needs_bias else None
        d_x = (grad @ joined(weights, ctx.dtype)).view(ctx.shape) if needs_x else None
        return d_x, d_bias, *d_weights


def joined(weights: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
    """Weights (O, I) one below the other, (sum of O, I), in `dtype`."""
    return torch.cat([weight.to(dtype) for weight in weights])


def gradients(grad: Tensor, x: Tensor, weights: Sequence[Tensor], needs: Sequence[bool]) -> list[Tensor | None]:
    """The gradients of joined weights (O, I), where needed, from that of the product (N, sum of O) of `x` (N, I)."""
    parts = torch.split(grad.t() @ x, [len(weight) for weight in weights])
    return [part.to(w.dtype) if needed else None for part, w, needed in zip(parts, weights, needs, strict=True)]
