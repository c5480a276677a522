"""Advantages: how much better an answer, or a token of it, was than expected.

rewards of groups -> group_advantages, leave_one_out            rewards, values of tokens -> gae -> whiten

Legend: n answers of this rank, T places of a row.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

Scale = Literal["group", "batch", "none"]
Total = Callable[[list[float]], list[float]]
"""Sums numbers over all ranks, as `Runtime.sum` does."""

EPS = 1e-4  # added to the spread of rewards, as trl does
_TINY = 1e-8


def alone(numbers: list[float]) -> list[float]:
    """The sums over the only rank: the numbers themselves."""
    return numbers


def group_advantages(rewards: Tensor, group: int, scale: Scale = "group", total: Total = alone) -> Tensor:
    """Centre rewards within each prompt's group and scale them to unit spread (Shao et al. 2024, section 4.1.2).

    The spread is the standard deviation with n - 1, plus 1e-4. Scaling by it weights a prompt the more, the less its
    answers differ; without it the expected gradient is (group - 1) / group of the exact one (Liu et al. 2025).

    Args:
        rewards: (n,), one per answer; the answers of a prompt are adjacent. NaN means that there is none.
        group: answers per prompt; divides n.
        scale: what the spread is measured over: each group, all answers of all ranks, or "none" for no scaling.
        total: function that sums over ranks; every rank calls it for "batch".

    Returns:
        (n,), dimensionless for "group" and "batch"; 0 without a reward, and in a group whose rewards are all equal.
    """
    rows, known, n, centred = _centred(rewards, group)
    if scale == "none":
        spread = torch.ones_like(centred[:, :1])
    elif scale == "group":
        spread = (centred.square().sum(1, keepdim=True) / (n - 1).clamp_min(1)).sqrt() + EPS
    else:
        whole, count = total([float(rows[known].sum()), float(known.sum())])
        square = total([float((rows[known] - whole / max(count, 1)).square().sum())])[0]
        spread = torch.full_like(centred[:, :1], (square / max(count - 1, 1)) ** 0.5 + EPS)
    return (centred / spread).flatten().to(rewards.dtype)


def leave_one_out(rewards: Tensor, group: int) -> Tensor:
    """Rewards less the mean of the other answers to the same prompt (Ahmadian et al. 2024, section 2.3).

    The expected gradient is the exact one, since an answer's baseline does not depend on it.

    Args:
        rewards: (n,), one per answer; the answers of a prompt are adjacent. NaN means that there is none.
        group: answers per prompt, at least 2; divides n.

    Returns:
        (n,), in units of the reward; 0 without a reward, or where no other answer has one.

    Raises:
        ValueError: `group` is below 2.
    """
    if group < 2:
        raise ValueError("an answer's baseline is the mean of the others: a group has at least 2")
    _, _, n, centred = _centred(rewards, group)
    return (centred * n / (n - 1).clamp_min(1)).flatten().to(rewards.dtype)


def _centred(rewards: Tensor, group: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Rewards (G, group) in float64, which are known, how many (G, 1), and rewards less their mean, 0 if unknown."""
    rows = rewards.double().view(-1, group)
    known = ~rows.isnan()
    n = known.sum(1, keepdim=True)
    mean = rows.nansum(1, keepdim=True) / n.clamp_min(1)
    # Equal rewards have an advantage of exactly 0, not what is left by rounding their mean.
    is_flat = (rows.nan_to_num(nan=torch.inf).amin(1) == rows.nan_to_num(nan=-torch.inf).amax(1)).unsqueeze(1)
    return rows, known, n, torch.where(known & ~is_flat, rows - mean, 0.0)


def gae(
    rewards: Tensor, values: Tensor, mask: Tensor, is_truncated: Tensor, gamma: float = 1.0, lam: float = 0.95
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimates and the returns that values learn (Schulman et al. 2016, equations 11, 12, 16).

    After the last token of a finished answer nothing more is earned. An answer that was cut off would have gone on, so
    the value of the state after its last token stands for the rest.

    Args:
        rewards: (n, T), the reward of each token.
        values: (n, T + 1), the value of the state that each token was drawn in; after an answer's last token, of the
            state it led to, which is read for answers that were cut off alone.
        mask: (n, T) bool, True for the tokens of the answer, which are adjacent.
        is_truncated: (n,) bool, whether the answer was cut off before it ended.
        gamma: discount of a reward one token later, from 0 to 1.
        lam: weight of estimates that reach one token further, from 0 to 1.

    Returns:
        Advantages and returns (n, T), both 0 outside of the answer; returns are advantages + values.
    """
    is_last = mask & ~torch.cat([mask[:, 1:], torch.zeros_like(mask[:, :1])], 1)
    ends = is_last & ~is_truncated.unsqueeze(1)
    now, then = values[:, :-1], values[:, 1:].masked_fill(ends, 0.0)
    errors = (rewards + gamma * then - now).masked_fill(~mask, 0.0)
    advantages, later = torch.zeros_like(errors), torch.zeros_like(errors[:, 0])
    for t in range(errors.shape[1] - 1, -1, -1):
        later = (errors[:, t] + gamma * lam * later) * mask[:, t]
        advantages[:, t] = later
    return advantages, (advantages + now).masked_fill(~mask, 0.0)


def whiten(x: Tensor, mask: Tensor, total: Total = alone, *, keeps_mean: bool = False) -> Tensor:
    """Numbers brought to mean 0 and variance 1 over the places of a mask, on all ranks together.

    Args:
        x: (n, T).
        mask: (n, T) bool, True for what counts.
        total: function that sums over ranks; every rank calls it.
        keeps_mean: whether the mean stays as it was.

    Returns:
        (n, T), 0 where the mask is False.
    """
    chosen = x[mask].double()
    whole, n = total([float(chosen.sum()), float(chosen.numel())])
    mean = whole / max(n, 1)
    variance = total([float((chosen - mean).square().sum())])[0] / max(n - 1, 1)
    found: Tensor = (x - mean) / (variance + _TINY) ** 0.5 + (mean if keeps_mean else 0.0)
    return found.masked_fill(~mask, 0.0)
