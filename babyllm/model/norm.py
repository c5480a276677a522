"""RMSNorm, with a backward pass that reads its input as few times as it can; `plain_rms_norm` is the formula.

Legend: D model width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


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


class _RMSNorm(torch.autograd.Function):
    """x (..., D), weight (D,), eps -> (..., D); statistics and gradients in float32."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
        scale = (norm.square() / x.shape[-1] + eps).rsqrt()
        ctx.save_for_backward(x, weight, scale)
        normed: Tensor = (x * scale).mul_(weight)
        return normed.to(torch.result_type(x, weight))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight, scale = ctx.saved_tensors
        grad = grads[0].float()
        D = x.shape[-1]
        weighted = (grad * x).reshape(-1, D)
        d_weight = scale.view(1, -1) @ weighted
        inner = (weighted @ weight.float().unsqueeze(1)).view(scale.shape)
        d_x = (grad * weight).mul_(scale).addcmul_(x.float(), inner * scale.pow(3) / D, value=-1)
        return d_x.to(x.dtype), d_weight.view(D).to(weight.dtype), None
