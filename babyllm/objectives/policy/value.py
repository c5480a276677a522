"""The loss of a critic, and how much of the returns it explains.

Legend: n answers of this rank, T places of a row.
"""

from __future__ import annotations

import torch
from torch import Tensor

from babyllm.objectives.policy.advantages import Total, alone


def value_loss(values: Tensor, old: Tensor, returns: Tensor, clip: float) -> Tensor:
    """Half the squared error of each value, of the worse of the value and the clipped one (Ouyang et al. 2022 use it).

    The clipped value is at most `clip` away from the one the rollout had (Schulman et al., code of 2017), so a step
    that moves a value farther has no gradient there.

    Args:
        values: (n, T), with gradient.
        old: (n, T) values when the answers were drawn.
        returns: (n, T), what the values should have been.
        clip: largest change of a value over the epochs of a rollout; 0 for no limit.

    Returns:
        (n, T), in squared units of the reward.
    """
    error = (values - returns).square()
    if clip:
        near = old + (values - old).clamp(-clip, clip)
        error = torch.maximum(error, (near - returns).square())
    return error / 2


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor, total: Total = alone) -> float:
    """1 - variance of the error / variance of the returns, over all ranks: 1 for a perfect critic, 0 for a constant.

    Args:
        values: (n, T) values when the answers were drawn.
        returns: (n, T) returns.
        mask: (n, T) bool, True for the tokens of the answers.
        total: function that sums over ranks; every rank calls it.

    Returns:
        A share, which is negative for a critic worse than a constant; 0 if all returns are equal.
    """
    goal = returns[mask].double()
    error = goal - values[mask].double()
    n, of_goal, of_error = total([float(goal.numel()), float(goal.sum()), float(error.sum())])
    n = max(n, 1.0)
    parts = [float((x - mean / n).square().sum()) for x, mean in ((goal, of_goal), (error, of_error))]
    whole, left = total(parts)
    return 1 - left / whole if whole else 0.0
