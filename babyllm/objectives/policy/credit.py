"""From the scores of answers to advantages and returns of their tokens, as a critic's policy learns from them.

scores -> normalised, clipped -> at the last token, less k1 at each -> gae -> whitened -> advantages, returns

Legend: n answers of this rank, T places of a row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from babyllm.objectives.policy.advantages import Total, alone, gae, whiten
from babyllm.objectives.policy.kl import adapted_coefficient, in_reward, measured
from babyllm.objectives.policy.policy_options import CreditOptions, KlConfig
from babyllm.objectives.policy.value import explained_variance


class Scored(NamedTuple):
    """Answers of a rollout, on one rank.

    Attributes:
        scores: (n,), what each answer was found to be worth.
        old: (n, T) log-probabilities of the tokens in nats, by the policy that drew them.
        reference: (n, T) log-probabilities by the reference model, at the same temperature; None without one.
        values: (n, T + 1), the value of the state that each token was drawn in, and of the one that the last led to.
        mask: (n, T) bool, True for the tokens of the answers.
        is_truncated: (n,) bool, whether an answer was cut off before it ended.
    """

    scores: Tensor
    old: Tensor
    reference: Tensor | None
    values: Tensor
    mask: Tensor
    is_truncated: Tensor


class Credited(NamedTuple):
    """What a policy and its critic learn from the answers of a rollout.

    Attributes:
        advantages: (n, T) float32, 0 outside of the answers.
        returns: (n, T) float32, 0 outside of the answers.
        metrics: numbers about the rollout by name, the same on every rank.
    """

    advantages: Tensor
    returns: Tensor
    metrics: dict[str, float]


@dataclass
class Credit:
    """Turns scores into advantages, with what it remembers of earlier rollouts.

    Attributes:
        options: discount, weights, clips.
        kl: divergence that is charged in the reward, if its place is there.
        total: function that sums over ranks.
        coefficient: present weight of the divergence, which the controller changes; that of `kl` at first.
        seen: number, mean and summed squared deviation of the scores so far, for normalising.
    """

    options: CreditOptions
    kl: KlConfig
    total: Total = alone
    coefficient: float = -1.0
    seen: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def __post_init__(self) -> None:
        """Begin with the weight of the configuration."""
        if self.coefficient < 0:
            self.coefficient = self.kl.coefficient

    def __call__(self, found: Scored) -> Credited:
        """The advantages and returns of a rollout, once for each; every rank must call it."""
        mask = found.mask
        metrics = {"score": self._mean(found.scores), "truncated": self._mean(found.is_truncated)}
        rewards = self._at_last(self._adjusted(found.scores), found)
        is_charged = self.kl.place == "reward" and found.reference is not None
        if found.reference is not None:
            metrics |= measured(found.old, found.reference, mask, self.total)[0]
        if is_charged:
            assert found.reference is not None
            rewards = in_reward(rewards, found.old, found.reference, mask, self.coefficient)
            metrics["kl_coefficient"] = self.coefficient
            if self.kl.target:
                self.coefficient = adapted_coefficient(self.coefficient, metrics["answer_kl"], self.kl.target)
        is_open = found.is_truncated & (self.options.truncated == "bootstrap")
        advantages, returns = gae(rewards, found.values, mask, is_open, self.options.gamma, self.options.lam)
        metrics["explained_variance"] = explained_variance(found.values[:, :-1], returns, mask, self.total)
        if self.options.whiten:
            advantages = whiten(advantages, mask, self.total)
        return Credited(advantages.float(), returns.float(), metrics)

    def state_dict(self) -> dict[str, Any]:
        """What later rollouts depend on, as JSON values; the same on every rank."""
        return {"coefficient": self.coefficient, "seen": list(self.seen)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on after a stored state."""
        n, mean, square = state["seen"]
        self.coefficient, self.seen = state["coefficient"], (n, mean, square)

    def _mean(self, x: Tensor) -> float:
        """The mean over the answers of all ranks."""
        whole, n = self.total([float(x.double().sum()), float(len(x))])
        return whole / max(n, 1.0)

    def _adjusted(self, scores: Tensor) -> Tensor:
        """Scores (n,) in float64, normalised and clipped."""
        scores = scores.double()
        if self.options.normalise:
            self._remember(scores)
            n, mean, square = self.seen
            scores = (scores - mean) / max((square / max(n - 1, 1)) ** 0.5, 1e-4)
        limit = self.options.clip_score
        return scores.clamp(-limit, limit) if limit else scores

    def _remember(self, scores: Tensor) -> None:
        """Add the scores of all ranks to those seen (Chan et al. 1983, equations 2.1)."""
        n, whole = self.total([float(len(scores)), float(scores.sum())])
        here = whole / max(n, 1.0)
        square = self.total([float((scores - here).square().sum())])[0]
        before, mean, squares = self.seen
        both = max(before + n, 1.0)
        between = (here - mean) ** 2 * before * n / both
        self.seen = (before + n, mean + (here - mean) * n / both, squares + square + between)

    def _at_last(self, scores: Tensor, found: Scored) -> Tensor:
        """(n, T) float64: each score at its answer's last token, and none for those that are to be bootstrapped."""
        if self.options.truncated == "bootstrap":
            scores = scores.masked_fill(found.is_truncated, 0.0)
        following = torch.cat([found.mask[:, 1:], torch.zeros_like(found.mask[:, :1])], 1)
        return (found.mask & ~following) * scores.unsqueeze(1)
