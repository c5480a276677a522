"""Per-token losses of the output layer without ever holding (B, T, V) logits.

hidden (N, D), weight (V, D), targets (N,) -> negative log-likelihood (N,) in nats

Legend: N tokens, C tokens of one chunk, D model width, V vocabulary.
Logits exist for one chunk at a time and are made again in the backward pass: one more product with the output layer
buys the memory of the largest tensor of small models.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

IGNORE = -100

CHUNK_BYTES = {"cpu": 8 << 20, "cuda": 256 << 20, "mps": 64 << 20}
"""fp32 logits held at once, by device: what stays in a CPU's cache, and what keeps an accelerator busy."""


def token_losses(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Negative log-likelihood of each target, in nats, 0 where the target is `IGNORE`.

    Products run in the autocast type when autocast is on; softmax and its sum always run in float32.

    Args:
        hidden: (..., D), the final hidden states.
        weight: (V, D), the output layer.
        targets: (...) int64.

    Returns:
        (...) float32.
    """
    device = hidden.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
    flat = hidden.reshape(-1, hidden.shape[-1])
    losses: Tensor = _TokenLosses.apply(flat, weight, targets.reshape(-1), dtype)  # type: ignore[no-untyped-call]
    return losses.view(targets.shape)


def _chunks(n: int, vocab_size: int, device: str) -> range:
    rows = CHUNK_BYTES.get(device, CHUNK_BYTES["cuda"]) // (4 * vocab_size)
    return range(0, n, max(64, rows // 64 * 64))


class _TokenLosses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, dtype: torch.dtype) -> Tensor:
        losses = torch.empty(targets.shape, dtype=torch.float32, device=hidden.device)
        with torch.autocast(hidden.device.type, enabled=False):
            h, w = hidden.to(dtype), weight.to(dtype)
            steps = _chunks(len(targets), len(weight), hidden.device.type)
            for start in steps:
                part = slice(start, start + steps.step)
                log_probs = F.log_softmax(F.linear(h[part], w), dim=-1, dtype=torch.float32)  # (C, V)
                losses[part] = F.nll_loss(log_probs, targets[part], ignore_index=IGNORE, reduction="none")
        ctx.save_for_backward(h, w, targets)
        ctx.dtypes = hidden.dtype, weight.dtype
        return losses

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        h, w, targets = ctx.saved_tensors
        hidden_dtype, weight_dtype = ctx.dtypes
        scale = grads[0].masked_fill(targets == IGNORE, 0.0).unsqueeze(1)
        rows = targets.clamp(min=0).unsqueeze(1)
        d_hidden = torch.empty(h.shape, dtype=hidden_dtype, device=h.device)
        d_weight = torch.zeros(w.shape, dtype=torch.float32, device=h.device)
        steps = _chunks(len(targets), len(w), h.device.type)
        with torch.autocast(h.device.type, enabled=False):
            for start in steps:
                part = slice(start, start + steps.step)
                slope = F.softmax(F.linear(h[part], w), dim=-1, dtype=torch.float32)  # (C, V)
                slope.scatter_add_(1, rows[part], torch.full_like(rows[part], -1, dtype=torch.float32))
                slope = slope.to(h.dtype)
                d_hidden[part] = (slope @ w) * scale[part]
                scaled = (h[part] * scale[part]).to(h.dtype)
                if d_weight.dtype == h.dtype:
                    d_weight.addmm_(slope.t(), scaled)
                else:
                    d_weight += slope.t() @ scaled
        return d_hidden, d_weight.to(weight_dtype), None, None
