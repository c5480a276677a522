"""Per-token losses of the output layer without ever holding (B, T, V) logits.

hidden (N, D), weight (V, D), targets (N,) -> negative log-likelihood (N,) in nats

Legend: N tokens, C tokens of one chunk, D model width, V vocabulary.
`plain_token_losses` is the formula; the rest computes it in little memory. Logits exist for one chunk at a time, and
their gradients are computed at once, in the forward pass. If the losses are then summed, one number scales the
gradients in the backward pass. If each loss has its own upstream gradient, the weight's gradient is computed again.
Nothing is read back from the device, so the host never waits for a GPU.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from babyllm.model.chunk_logits import chunk_logits, chunks
from babyllm.model.linear import product_dtype

IGNORE = -100

SPARSE = 0.75
"""Share of counted targets below which only their rows are multiplied; above it, selecting rows costs more."""


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
    allowed: Tensor | None = None,
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
        allowed: (..., ceil(V / 8)) uint8, the tokens that a place can have, as bits (`chunk_logits`); None for all.

    Returns:
        (...) float32, or float64.
    """
    flat, goals = hidden.reshape(-1, hidden.shape[-1]), targets.reshape(-1)
    factors = None if weights is None else weights.reshape(-1)
    rows, dtype = counted_rows(goals, n_targets), product_dtype(hidden)
    bits = None if allowed is None else allowed.reshape(len(goals), -1)
    losses: Tensor = _TokenLosses.apply(flat, weight, goals, factors, bits, rows, dtype, torch.is_grad_enabled())  # type: ignore[no-untyped-call]
    return losses.view(targets.shape)


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
        allowed: Tensor | None,
        rows: Tensor | None,
        dtype: torch.dtype,
        wants_gradients: bool,
    ) -> Tensor:
        n, wide = len(targets), torch.promote_types(dtype, torch.float32)
        if rows is not None:
            hidden, targets = hidden.index_select(0, rows), targets.index_select(0, rows)
            factors = None if factors is None else factors.index_select(0, rows)
            allowed = None if allowed is None else allowed.index_select(0, rows)
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
            for part in chunks(len(targets), len(weight), hidden.device.type):
                losses[part], probs = losses_and_probabilities(chunk_logits(h, w, allowed, part), targets[part], wide)
                if wants_gradients:
                    slope = _slope(probs, targets[part], dtype)
                    d_hidden[part] = slope @ w
                    if len(d_weight):
                        add_product(d_weight, slope, shared[part])
        if wants_gradients:
            ctx.save_for_backward(h, w, targets, share, peak, allowed, rows, d_hidden)
            ctx.n, ctx.weight_dtype, ctx.d_weight = n, weight.dtype, d_weight
        return scattered(losses if factors is None else losses * factors, rows, n)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        h, w, targets, share, peak, allowed, rows, d_hidden = ctx.saved_tensors
        upstream, d_weight, ctx.d_weight = grads[0], ctx.d_weight, None
        is_common = upstream.stride() == (0,)  # the gradient of a sum: one number, expanded
        scale = share * (upstream[0] if is_common else upstream if rows is None else upstream.index_select(0, rows))
        scaled_hidden = scattered((d_hidden * scale.unsqueeze(1)).to(d_hidden.dtype), rows, ctx.n)
        if not ctx.needs_input_grad[1]:
            return scaled_hidden, *(None,) * 7
        if is_common and d_weight is not None:  # a second backward pass finds it scaled by the first
            d_weight.mul_(upstream[0] * peak)
        else:
            wide = share.dtype
            d_weight = torch.zeros(w.shape, dtype=wide, device=w.device)
            scaled = (h * scale.unsqueeze(1)).to(h.dtype)
            with torch.autocast(h.device.type, enabled=False):
                for part in chunks(len(targets), len(w), h.device.type):
                    _, probs = losses_and_probabilities(chunk_logits(h, w, allowed, part), targets[part], wide)
                    add_product(d_weight, _slope(probs, targets[part], h.dtype), scaled[part])
        return scaled_hidden, d_weight.to(ctx.weight_dtype), *(None,) * 6


def scattered(values: Tensor, rows: Tensor | None, n: int) -> Tensor:
    """(n, ...): the values at `rows`, zero elsewhere; `rows` None means that the values are those of all rows."""
    return values if rows is None else values.new_zeros(n, *values.shape[1:]).index_copy_(0, rows, values)


def losses_and_probabilities(logits: Tensor, targets: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The losses (C,) in nats and the probabilities (C, V), of type `dtype`; `logits` (C, V) may be overwritten."""
    if logits.device.type != "cpu":
        log_probs = F.log_softmax(logits, dim=-1, dtype=dtype)
        return F.nll_loss(log_probs, targets, ignore_index=IGNORE, reduction="none"), log_probs.exp_()
    # On a CPU four passes in place take half the time of log_softmax and exp.
    x = logits.to(dtype)
    x.sub_(x.amax(dim=1, keepdim=True))
    at_target = x.gather(1, targets.clamp(min=0).unsqueeze(1))
    total = x.exp_().sum(dim=1, keepdim=True)
    losses = (total.log() - at_target).squeeze(1).masked_fill_(targets == IGNORE, 0.0)
    return losses, x.div_(total)


def _slope(probs: Tensor, targets: Tensor, dtype: torch.dtype) -> Tensor:
    """(C, V) derivatives of the losses by the logits: `probs`, which is overwritten, less 1 at the target."""
    at_target = torch.full((len(targets), 1), -1.0, dtype=probs.dtype, device=probs.device)
    return probs.scatter_add_(1, targets.clamp(min=0).unsqueeze(1), at_target).to(dtype)


def add_product(total: Tensor, slope: Tensor, hidden: Tensor) -> None:
    """Add the transposed slope (V, C) times hidden (C, D) to `total` (V, D), in the type of `total`."""
    if total.dtype == slope.dtype:
        total.addmm_(slope.t(), hidden)
    else:
        total += slope.t() @ hidden
