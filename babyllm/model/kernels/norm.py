"""RMSNorm, with a backward pass that reads its input as few times as it can; `plain_rms_norm` is the formula.

    x -> RMSNorm -> normed copy
    x -> normed_product -> product of the normed copy, which is not kept but computed again in the backward pass

Legend: D model width, O outputs of a product.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from babyllm.model.kernels.joined import gradients, joined


def plain_rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """What `RMSNorm` computes: (..., D), (D,) -> (..., D)."""
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * weight


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * weight, in float32 (Zhang and Sennrich 2019, equation 4)."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        normed: Tensor = _RMSNorm.apply(x, self.weight, self.eps)  # type: ignore[no-untyped-call]
        return normed


def normed_product(x: Tensor, norm_weight: Tensor, eps: float, weights: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
    """The product norm(x) W^T in `dtype`, where W is weights one below the other.

    Only `x` is kept for the backward pass, which computes the normed copy again: bit for bit the same gradients.

    Args:
        x: (..., D).
        norm_weight: (D,), weight of the norm.
        eps: that of the norm.
        weights: (O, D) each.
        dtype: type of the product.

    Returns:
        (..., sum of O).
    """
    product: Tensor = _NormedProduct.apply(x, norm_weight, eps, dtype, *weights)  # type: ignore[no-untyped-call]
    return product


class _RMSNorm(torch.autograd.Function):
    """x (..., D), weight (D,), eps -> (..., D); statistics and gradients in float32."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        scale = _scale(x, eps)
        ctx.save_for_backward(x, weight, scale)
        return _normed(x, weight, scale)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        return *_gradients(grads[0], *ctx.saved_tensors), None


class _NormedProduct(torch.autograd.Function):
    """x (..., D), weight of the norm (D,), eps, type, weights (O, D) -> (..., sum of O)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, norm_weight: Tensor, eps: float, dtype: torch.dtype, *weights: Tensor) -> Tensor:
        scale = _scale(x, eps)
        ctx.save_for_backward(x, norm_weight, scale, *weights)
        ctx.dtype = dtype
        return F.linear(_normed(x, norm_weight, scale).to(dtype), joined(weights, dtype))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, norm_weight, scale, *weights = ctx.saved_tensors
        needs, grad = ctx.needs_input_grad[4:], grads[0].flatten(0, -2)
        d_weights: list[Tensor | None] = [None] * len(weights)
        if any(needs):
            d_weights = gradients(grad, _normed(x, norm_weight, scale).to(ctx.dtype).flatten(0, -2), weights, needs)
        d_normed = (grad @ joined(weights, ctx.dtype)).view(x.shape)
        d_x, d_norm_weight = _gradients(d_normed, x, norm_weight, scale)
        return d_x, d_norm_weight, None, None, *d_weights


def _scale(x: Tensor, eps: float) -> Tensor:
    """1 / sqrt(mean(x^2) + eps): (..., D) -> (..., 1) float32."""
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
    scale: Tensor = (norm.square() / x.shape[-1] + eps).rsqrt()
    return scale


def _normed(x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    """(..., D), (D,), (..., 1) -> (..., D)."""
    return (x * scale).mul_(weight).to(torch.result_type(x, weight))


def _gradients(grad: Tensor, x: Tensor, weight: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of x (..., D) and of the weight (D,), from that of the normed copy (..., D)."""
    grad = grad.float()
    D = x.shape[-1]
    weighted = (grad * x).reshape(-1, D)
    d_weight = scale.view(1, -1) @ weighted
    inner = (weighted @ weight.float().unsqueeze(1)).view(scale.shape)
    d_x = (grad * weight).mul_(scale).addcmul_(x.float(), inner * scale.pow(3) / D, value=-1)
    return d_x.to(x.dtype), d_weight.view(D).to(weight.dtype)
