"""Per-token losses and entropies of the output layer in one pass, without ever holding (B, T, V) logits.

hidden (N, D), weight (V, D), targets (N,) -> negative log-likelihood (N,) and entropy (N,), both in nats

Legend: N tokens, C tokens of one chunk, D model width, V vocabulary.
`plain_losses_and_entropies` is the formula. Unlike the losses alone (`babyllm.model.cross_entropy`), the logits are
computed again in the backward pass, because losses with an entropy have a different upstream gradient for each token.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from babyllm.model.chunk_logits import chunk_logits, chunks
from babyllm.model.cross_entropy import (
    IGNORE,
    add_product,
    counted_rows,
    losses_and_probabilities,
    scattered,
)
from babyllm.model.linear import product_dtype


def plain_losses_and_entropies(hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """What `losses_and_entropies` computes, with all logits at once: (N, D), (V, D), (N,) -> (N,) and (N,) in nats."""
    log_probs = F.log_softmax(F.linear(hidden, weight), dim=-1)  # (N, V)
    entropies = -(log_probs.exp() * log_probs).sum(-1).masked_fill(targets == IGNORE, 0.0)
    return F.nll_loss(log_probs, targets, ignore_index=IGNORE, reduction="none"), entropies


def losses_and_entropies(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    n_targets: int | None = None,
    allowed: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Negative log-likelihood of each target and entropy of the distribution it is predicted with, in nats.

    Both are 0 where the target is `IGNORE`. The losses equal those of `cross_entropy.token_losses` bit for bit, and the
    types are the same.

    Args:
        hidden: (..., D), the final hidden states.
        weight: (V, D), the output layer.
        targets: (...) int64 token ids, or `IGNORE`.
        n_targets: upper bound on the number of targets other than `IGNORE`; most other logits are then not computed.
            None computes all.
        allowed: (..., ceil(V / 8)) uint8, the tokens that a place can have, as bits (`chunk_logits`); None
            for all.

    Returns:
        (...) and (...), float32 or float64.
    """
    flat, goals = hidden.reshape(-1, hidden.shape[-1]), targets.reshape(-1)
    rows, dtype = counted_rows(goals, n_targets), product_dtype(hidden)
    bits = None if allowed is None else allowed.reshape(len(goals), -1)
    losses, entropies = _LossesAndEntropies.apply(flat, weight, goals, bits, rows, dtype)  # type: ignore[no-untyped-call]
    return losses.view(targets.shape), entropies.view(targets.shape)


class _LossesAndEntropies(torch.autograd.Function):
    """(N, D), (V, D), (N,) -> (N,) and (N,).

    With p the probabilities, the losses' derivatives by the logits are p, less 1 at the target, and the entropies'
    are -p (log p + entropy).
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        allowed: Tensor | None,
        rows: Tensor | None,
        dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor]:
        n, wide = len(targets), torch.promote_types(dtype, torch.float32)
        if rows is not None:
            hidden, targets = hidden.index_select(0, rows), targets.index_select(0, rows)
            allowed = None if allowed is None else allowed.index_select(0, rows)
        losses, entropies = (torch.empty(targets.shape, dtype=wide, device=hidden.device) for _ in range(2))
        h, w = hidden.to(dtype), weight.to(dtype)
        with torch.autocast(hidden.device.type, enabled=False):
            for part in chunks(len(targets), len(weight), hidden.device.type):
                losses[part], probs = losses_and_probabilities(chunk_logits(h, w, allowed, part), targets[part], wide)
                entropies[part] = torch.special.entr(probs).sum(dim=-1)
        entropies.masked_fill_(targets == IGNORE, 0.0)
        ctx.save_for_backward(h, w, targets, allowed, rows, entropies)
        ctx.n, ctx.dtypes = n, (hidden.dtype, weight.dtype)
        return scattered(losses, rows, n), scattered(entropies.clone(), rows, n)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        h, w, targets, allowed, rows, entropies = ctx.saved_tensors
        grads = grads if rows is None else tuple(grad.index_select(0, rows) for grad in grads)
        upstream = torch.stack(grads).masked_fill(targets == IGNORE, 0.0)  # (2, N)
        # Small weights, such as one over a turn's length, would underflow in 16-bit gradients.
        peak = upstream.abs().amax().clamp(min=torch.finfo(upstream.dtype).tiny)
        by_loss, by_entropy = (upstream / peak).unsqueeze(-1)  # (N, 1) each
        d_hidden = torch.empty(h.shape, dtype=ctx.dtypes[0], device=h.device)
        d_weight = torch.zeros(w.shape if ctx.needs_input_grad[1] else (0,), dtype=upstream.dtype, device=h.device)
        with torch.autocast(h.device.type, enabled=False):
            for part in chunks(len(targets), len(w), h.device.type):
                _, probs = losses_and_probabilities(chunk_logits(h, w, allowed, part), targets[part], upstream.dtype)
                # p (log p + entropy), where p may be 0
                spread = (probs * entropies[part].unsqueeze(-1)).sub_(torch.special.entr(probs))
                slope = probs.mul_(by_loss[part]).sub_(spread.mul_(by_entropy[part]))
                slope.scatter_add_(1, targets[part].clamp(min=0).unsqueeze(1), -by_loss[part])
                slope = slope.to(h.dtype)
                d_hidden[part] = slope @ w
                if len(d_weight):
                    add_product(d_weight, slope, h[part])
        by_weight = (d_weight * peak).to(ctx.dtypes[1]) if len(d_weight) else None
        return scattered(d_hidden * peak, rows, ctx.n), by_weight, None, None, None, None
