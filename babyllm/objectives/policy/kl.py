"""How far a policy has moved from its reference, estimated from the tokens that it drew (Schulman 2020).

With d = log pi(token) - log ref(token), each estimator has the mean KL(pi || ref) over tokens drawn from pi:

    k1 = d                     k2 = d^2 / 2, to second order                 k3 = exp(-d) - 1 + d

What a training step follows is the gradient, and there they differ (Tang and Munos 2025; Liu et al. 2025,
arXiv:2510.01555). On tokens of the present policy:

    k1 in the reward           the gradient of KL(pi || ref)
    k2 in the loss             the same
    k3 in the loss             the gradient of KL(ref || pi), of the other direction, though k3 estimates this one
    k1 in the loss             0 on average: noise, which holds nothing back

In the loss, a token's estimate does not know that the token also decides what comes after it: the gradient is that of
the divergences of the next tokens, after what was written, added up. In the reward with no discount, or in the loss for
whole answers, it is the gradient of the divergence of whole answers.

Legend: n answers, T places of a row.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import Tensor

from babyllm.objectives.policy.advantages import Total, alone
from babyllm.objectives.policy.policy_options import Estimator

CHANGE = 0.2  # largest relative error that the controller acts on


def k1(difference: Tensor) -> Tensor:
    """The difference itself: unbiased, of either sign."""
    return difference


def k2(difference: Tensor) -> Tensor:
    """Half its square: biased, never negative."""
    return difference.square() / 2


def k3(difference: Tensor) -> Tensor:
    """The difference with a control variate: unbiased, never negative."""
    return (-difference).expm1() + difference


ESTIMATORS: dict[Estimator, Callable[[Tensor], Tensor]] = {"k1": k1, "k2": k2, "k3": k3}


def in_reward(rewards: Tensor, old: Tensor, reference: Tensor, mask: Tensor, coefficient: float) -> Tensor:
    """Rewards of tokens, less what each pays for its divergence, by k1 (Ouyang et al. 2022, equation 2).

    Args:
        rewards: (n, T), the reward of each token; that of an answer stands at its last token.
        old: (n, T) log-probabilities, in nats, of the policy that drew the tokens.
        reference: (n, T) log-probabilities of the reference model, at the same temperature.
        mask: (n, T) bool, True for the tokens of the answer.
        coefficient: reward per nat.

    Returns:
        (n, T). Their sum over an answer is its reward where there are no rewards of tokens.
    """
    return rewards - coefficient * (old - reference).masked_fill(~mask, 0.0)


def in_loss(
    estimator: Estimator, logp: Tensor, reference: Tensor, mask: Tensor, of: Literal["token", "answer"] = "token"
) -> Tensor:
    """The divergence as a loss of each token, to be added to that of the policy.

    Args:
        estimator: estimator by name; k1 has a gradient of mean 0.
        logp: (n, T) log-probabilities, in nats, of the policy, with gradient.
        reference: (n, T) log-probabilities of the reference model, at the same temperature.
        mask: (n, T) bool, True for the tokens of the answer.
        of: "token" estimates the divergence of each token; "answer" that of whole answers, and each token has an equal
            part of it.

    Returns:
        (n, T) nats, 0 outside of the answer.
    """
    difference = (logp - reference).masked_fill(~mask, 0.0)
    if of == "token":
        return ESTIMATORS[estimator](difference).masked_fill(~mask, 0.0)
    parts = mask / mask.sum(1, keepdim=True).clamp_min(1)
    return ESTIMATORS[estimator](difference.sum(1, keepdim=True)) * parts


def measured(old: Tensor, reference: Tensor, mask: Tensor, total: Total = alone) -> tuple[dict[str, float], Tensor]:
    """How far the policy that drew answers is from the reference, over all ranks; every rank must call it.

    Args:
        old: (n, T) log-probabilities, in nats, of the policy that drew the tokens.
        reference: (n, T) log-probabilities of the reference model, at the same temperature.
        mask: (n, T) bool, True for the tokens of the answers.
        total: function that sums over ranks.

    Returns:
        "kl", the mean of a token by k3, and "answer_kl", that of an answer by k1, in nats; and (n,) float64, k1 of each
        answer of this rank.
    """
    change = (old - reference).masked_fill(~mask, 0.0).double()
    of_answers = change.sum(1)
    near = k3(change).sum()  # 0 where there is no token
    own = [float(near), float(mask.sum()), float(of_answers.sum()), float(len(of_answers))]
    near_sum, n_tokens, whole, n = total(own)
    return {"kl": near_sum / max(n_tokens, 1.0), "answer_kl": whole / max(n, 1.0)}, of_answers


def adapted_coefficient(coefficient: float, kl: float, target: float, gain: float = 0.1) -> float:
    """The weight of the divergence for the next rollout (Ziegler et al. 2019, section 2.2).

    Args:
        coefficient: present weight.
        kl: mean divergence of an answer of the present rollout, in nats, by k1.
        target: divergence that is wanted, above 0.
        gain: change of the weight, as a share of it, at a relative error of 1; errors beyond 0.2 count as 0.2.
    """
    error = min(max((kl - target) / target, -CHANGE), CHANGE)
    return coefficient * (1 + gain * error)
