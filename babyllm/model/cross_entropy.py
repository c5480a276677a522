"""Per-token losses of the output layer without ever holding (B, T, V) logits.

hidden (N, D), weight (V, D), targets (N,) -> negative log-likelihood (N,) in nats

Legend: N tokens, C tokens of one chunk, D model width, V vocabulary.
`plain_token_losses` is the formula; the rest computes it in little memory. Logits exist for one chunk at a time, and
their gradients are computed at once, in the forward pass. If the losses are then summed, one number scales the
gradients in the backward pass. If each loss has its own upstream gradient, the weight's gradient is computed again.
Nothing is read back from the device, so the host never waits for a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

IGNORE = -100

CHUNK_BYTES = {"cpu": 8 << 20, "cuda": 256 << 20, "mps": 64 << 20}
"""Bytes of fp32 logits held at once, by device: few enough for a CPU's cache, enough to keep an accelerator busy."""

SPARSE = 0.75
"""Share of counted targets below which only their rows are multiplied; above it, selecting rows costs more."""

PRODUCT_CHUNKS = {"cpu": 4}
"""Chunks whose 16-bit logit gradients share one product for the weight, since adding a product reads all of (V, D)."""


def plain_token_losses(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """What `token_losses` computes, with all logits at once: (N, D), (V, D), (N,) -> (N,) in nats."""
    logits = F.linear(hidden, weight)  # (N, V)
    return F.cross_entropy(logits, targets, ignore_index=IGNORE, reduction="none")


def token_losses(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    weights: Tensor | None = None,
    n_targets: int | None = None,
) -> Tensor:
    """Negative log-likelihood of each target, in nats, 0 where the target is `IGNORE`.

    Products run in the autocast type when autocast is on; softmax and its sum run in float32, or in float64 for hidden
    states of that type.

    Args:
        hidden: (..., D), the final hidden states.
        weight: (V, D), the output layer.
        targets: (...) int64 token ids, or `IGNORE`.
        weights: (...) float32 constants that the nats are multiplied by; None for 1. Multiplying afterwards instead
            would cost a second pass for the gradients.
        n_targets: upper bound on the number of targets other than `IGNORE`, which saves most other logits; or None.

    Returns:
        (...) float32, or float64.
    """
    flat, goals = hidden.reshape(-1, hidden.shape[-1]), targets.reshape(-1)
    factors = None if weights is None else weights.reshape(-1)
    rows, dtype = counted_rows(goals, n_targets), product_dtype(hidden)
    losses: Tensor = _TokenLosses.apply(flat, weight, goals, factors, rows, dtype, torch.is_grad_enabled())  # type: ignore[no-untyped-call]
    return losses.view(targets.shape)


def product_dtype(hidden: Tensor) -> torch.dtype:
    """The type of the output layer's products: that of autocast when it is on, else that of the hidden states."""
    device = hidden.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype


def counted_rows(targets: Tensor, n_targets: int | None) -> Tensor | None:
    """(`n_targets`,) int64 indices of all counted targets, and maybe others, among (N,); None if that saves nothing."""
    if not n_targets or n_targets >= SPARSE * len(targets):
        return None
    # Sorted, counted targets come first. Their number is known, so the device need not be asked for it.
    return (targets == IGNORE).int().argsort(stable=True)[:n_targets]


class _TokenLosses(torch.autograd.Function):
    """(N, D), (V, D), (N,) -> (N,); the forward pass already computes the gradients of the losses' sum."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        factors: Tensor | None,
        rows: Tensor | None,
        dtype: torch.dtype,
        wants_gradients: bool,
    ) -> Tensor:
        n, wide = len(targets), torch.promote_types(dtype, torch.float32)
        if rows is not None:
            hidden, targets = hidden.index_select(0, rows), targets.index_select(0, rows)
            factors = None if factors is None else factors.index_select(0, rows)
        losses = torch.empty(targets.shape, dtype=wide, device=hidden.device)
        h, w = hidden.to(dtype), weight.to(dtype)
        if wants_gradients:
            share = (targets != IGNORE).to(wide) if factors is None else factors.masked_fill(targets == IGNORE, 0.0)
            d_hidden = torch.empty(hidden.shape, dtype=hidden.dtype, device=hidden.device)
            d_weight = torch.zeros(weight.shape if weight.requires_grad else (0,), dtype=wide, device=hidden.device)
            # Small weights, such as one over a turn's length, would underflow in 16-bit products.
            peak = share.abs().amax().clamp(min=torch.finfo(wide).tiny)
            shared = (h * (share / peak).unsqueeze(1)).to(dtype)
        with torch.autocast(hidden.device.type, enabled=False):
            for group in chunk_groups(len(targets), len(weight), hidden.device.type, dtype):
                slopes: list[Tensor] = []
                for part in group:
                    log_probs = F.log_softmax(F.linear(h[part], w), dim=-1, dtype=wide)  # (C, V)
                    losses[part] = F.nll_loss(log_probs, targets[part], ignore_index=IGNORE, reduction="none")
                    if wants_gradients:
                        slopes.append(_slope(log_probs.exp_(), targets[part], dtype))
                        d_hidden[part] = slopes[-1] @ w
                if wants_gradients and len(d_weight):
                    add_product(d_weight, slopes, shared[group[0].start : group[-1].stop])
        if wants_gradients:
            ctx.save_for_backward(h, w, targets, share, peak, rows, d_hidden, d_weight)
            ctx.n, ctx.weight_dtype = n, weight.dtype
        return scattered(losses if factors is None else losses * factors, rows, n)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        h, w, targets, share, peak, rows, d_hidden, d_weight = ctx.saved_tensors
        upstream = grads[0]
        is_common = upstream.stride() == (0,)  # the gradient of a sum: one number, expanded
        scale = share * (upstream[0] if is_common else upstream if rows is None else upstream.index_select(0, rows))
        scaled_hidden = scattered((d_hidden * scale.unsqueeze(1)).to(d_hidden.dtype), rows, ctx.n)
        if not len(d_weight):
            return scaled_hidden, *(None,) * 6
        if is_common:
            d_weight = d_weight * (upstream[0] * peak)
        else:
            d_weight = torch.zeros_like(d_weight)
            scaled = (h * scale.unsqueeze(1)).to(h.dtype)
            with torch.autocast(h.device.type, enabled=False):
                for group in chunk_groups(len(targets), len(w), h.device.type, h.dtype):
                    logits = (F.linear(h[part], w) for part in group)  # (C, V) each
                    probs = (F.softmax(x, dim=-1, dtype=d_weight.dtype) for x in logits)
                    slopes = [_slope(p, targets[part], h.dtype) for p, part in zip(probs, group, strict=True)]
                    add_product(d_weight, slopes, scaled[group[0].start : group[-1].stop])
        return scaled_hidden, d_weight.to(ctx.weight_dtype), *(None,) * 5


def scattered(values: Tensor, rows: Tensor | None, n: int) -> Tensor:
    """(n, ...): the values at `rows`, zero elsewhere; `rows` None means that the values are those of all rows."""
    return values if rows is None else values.new_zeros(n, *values.shape[1:]).index_copy_(0, rows, values)


def chunk_groups(n: int, vocab_size: int, device: str, dtype: torch.dtype) -> Iterator[list[slice]]:
    """Slices of the tokens that `CHUNK_BYTES` of logits hold; the slices of a list share one product for the weight."""
    rows = CHUNK_BYTES.get(device, CHUNK_BYTES["cuda"]) // (4 * vocab_size)
    rows = max(64, rows // 64 * 64)
    size = rows * (PRODUCT_CHUNKS.get(device, 1) if dtype.itemsize < 4 else 1)
    for first in range(0, n, size):
        last = min(n, first + size)
        yield [slice(start, min(last, start + rows)) for start in range(first, last, rows)]


def _slope(probs: Tensor, targets: Tensor, dtype: torch.dtype) -> Tensor:
    """(C, V) derivatives of the losses by the logits: `probs`, which is overwritten, less 1 at the target."""
    at_target = torch.full((len(targets), 1), -1.0, dtype=probs.dtype, device=probs.device)
    return probs.scatter_add_(1, targets.clamp(min=0).unsqueeze(1), at_target).to(dtype)


def add_product(total: Tensor, slopes: list[Tensor], hidden: Tensor) -> None:
    """Add the transposed slopes (V, N) times hidden (N, D) to `total` (V, D), in the type of `total`."""
    slope = slopes[0] if len(slopes) == 1 else torch.cat(slopes)
    if total.dtype == slope.dtype:
        total.addmm_(slope.t(), hidden)
    else:
        total += slope.t() @ hidden
