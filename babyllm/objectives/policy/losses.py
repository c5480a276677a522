"""The losses of a policy over its own answers, as sums over named units.

batch -> model -> log-probabilities -> loss of each token (POLICY_LOSSES) -> times the weight of its answer -> sum

Each loss names the unit that it is a mean over, and the weight of each place adds the answers up so that this holds for
every micro-batch and number of ranks. On tokens of the present policy, with A the advantage of an answer and without
clipping, the expected gradient of each is that of the expected reward times a factor:

    loss       ratio      unit       weight of a token         the exact gradient, times
    reinforce  none       sequence   1                         1
    dr_grpo    token      sequence   1 / longest answer        1 / longest answer
    grpo       token      sequence   1 / tokens of the answer  1 / length, if all answers are equally long
    gspo       sequence   sequence   1 / tokens of the answer  1 / length, if all answers are equally long
    ppo, dapo  token      token      1                         answers per token of the global batch
    cispo      token      token      1                         answers per token of the global batch

Legend: n answers of a micro-batch, T places of a row.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from babyllm.data.batch import Batch
from babyllm.model.cross_entropy import IGNORE
from babyllm.objectives import Loss, LossTerms, Mean
from babyllm.objectives.policy.kl import in_loss, k3
from babyllm.objectives.policy.policy_options import LossName, PolicyOptions, ValueOptions
from babyllm.objectives.policy.value import value_loss


class Answers(NamedTuple):
    """What a loss of a token is a function of; all (n, T).

    Attributes:
        logp: log-probabilities of the tokens in nats, with gradient.
        old: log-probabilities when they were drawn.
        advantages: advantages of the tokens.
        mask: True for the tokens of the answer.
    """

    logp: Tensor
    old: Tensor
    advantages: Tensor
    mask: Tensor


def token_ratio(answers: Answers) -> Tensor:
    """New to old probability of each token, (n, T); 1 outside of the answer."""
    return (answers.logp - answers.old).masked_fill(~answers.mask, 0.0).exp()


def sequence_ratio(answers: Answers) -> Tensor:
    """The geometric mean of an answer's ratios, at each of its places (n, T) (Zheng et al. 2025, equation 7)."""
    changes = (answers.logp - answers.old).masked_fill(~answers.mask, 0.0)
    mean = changes.sum(1, keepdim=True) / answers.mask.sum(1, keepdim=True).clamp_min(1)
    return mean.exp().expand_as(changes)


def clipped(ratio: Tensor, answers: Answers, options: PolicyOptions) -> Tensor:
    """The clipped surrogate (Schulman et al. 2017, equation 7).

    The dual clip limits it where the advantage is negative (Ye et al. 2020, equation 5). DAPO clips farther above 1
    than below (Yu et al. 2025, equation 10).
    """
    if options.dual_clip:
        ratio = torch.where(answers.advantages < 0, ratio.clamp(max=options.dual_clip), ratio)
    near = ratio.clamp(1 - options.clip_low, 1 + options.clip_up)
    return -torch.minimum(ratio * answers.advantages, near * answers.advantages)


def weighted(ratio: Tensor, answers: Answers, options: PolicyOptions) -> Tensor:
    """Log-probabilities weighted by ratios up to 1 + clip_high, so no token is left out (MiniMax 2025, equation 4)."""
    return -ratio.detach().clamp(max=1 + options.clip_up) * answers.advantages * answers.logp


def plain(ratio: Tensor, answers: Answers, options: PolicyOptions) -> Tensor:
    """The score function (Williams 1992), exact for a rollout that is used once."""
    return -answers.advantages * answers.logp


def by_length(mask: Tensor, max_answer: int) -> Tensor:
    """1 / the tokens of the answer, (n, 1): each answer counts once (Shao et al. 2024, equation 3)."""
    return 1 / mask.sum(1, keepdim=True).clamp_min(1)


def by_limit(mask: Tensor, max_answer: int) -> Tensor:
    """1 / the longest answer, (1, 1): each token counts alike, whatever the lengths (Liu et al. 2025, section 3.2)."""
    return torch.full_like(mask[:1, :1], 1 / max_answer, dtype=torch.float64)


def each_whole(mask: Tensor, max_answer: int) -> Tensor:
    """1, (1, 1)."""
    return torch.ones_like(mask[:1, :1], dtype=torch.float64)


class PolicyLoss(NamedTuple):
    """A loss of a policy.

    Attributes:
        ratio: function that returns the ratio of new to old probability at each place.
        per_token: function of ratio, answers and options that returns the loss of each token, (n, T).
        unit: unit that the loss is a mean over: "token" or "sequence".
        weight: function of the mask and the most tokens of an answer that returns the weight of each place.
    """

    ratio: Callable[[Answers], Tensor]
    per_token: Callable[[Tensor, Answers, PolicyOptions], Tensor]
    unit: str
    weight: Callable[[Tensor, int], Tensor]


POLICY_LOSSES: dict[LossName, PolicyLoss] = {
    "grpo": PolicyLoss(token_ratio, clipped, "sequence", by_length),
    "dr_grpo": PolicyLoss(token_ratio, clipped, "sequence", by_limit),
    "dapo": PolicyLoss(token_ratio, clipped, "token", each_whole),
    "gspo": PolicyLoss(sequence_ratio, clipped, "sequence", by_length),
    "cispo": PolicyLoss(token_ratio, weighted, "token", each_whole),
    "reinforce": PolicyLoss(token_ratio, plain, "sequence", each_whole),
    "ppo": PolicyLoss(token_ratio, clipped, "token", each_whole),
}


def policy_loss(
    options: PolicyOptions, *, max_answer: int, temperature: float = 1.0, critic: ValueOptions | None = None
) -> Loss:
    """The loss of a policy over its answers, with the divergence from a reference, an entropy bonus and a critic.

    Args:
        options: loss by name, and its settings.
        max_answer: most tokens of an answer, the divisor of dr_grpo.
        temperature: temperature that the answers were drawn at; log-probabilities are taken there.
        critic: settings of the critic's loss, over unit "token"; None without a critic.

    Returns:
        A loss of a batch with "tokens" and "targets" (n, T) int64, "old" (n, T) float32 log-probabilities of the
        targets when they were drawn, "advantages" (n, T) or (n, 1) float32; with a divergence "reference" (n, T)
        log-probabilities; with a critic "values" and "returns" (n, T) float32; with `mask_truncated` "truncated" (n, 1)
        bool; under a constraint "allowed", as `Transformer.forward` takes it, the tokens that each target was drawn
        among: all log-probabilities and entropies are then those over these tokens. "positions" and "documents" are
        passed on. The batch's units "token" and "sequence" count the targets, and the answers that have any, without
        those that are masked.

        Metrics: "loss" by its unit; by token "ratio", "clip/low" and "clip/high" (shares), "entropy" and "kl" in nats
        (k3), "value_loss".

    Raises:
        UserError: the options do not fit each other.
    """
    options.check()
    chosen = POLICY_LOSSES[options.loss]
    asked = ("nats", "entropy", *(("values",) if critic else ()))

    def loss(model: nn.Module, batch: Batch) -> LossTerms:
        targets = batch["targets"]
        if options.mask_truncated:
            targets = targets.masked_fill(batch["truncated"], IGNORE)
        found = _read(model, batch, targets, temperature, asked)
        mask = targets != IGNORE
        answers = Answers(-found["nats"], batch["old"], batch["advantages"].expand_as(batch["old"]), mask)
        ratio = chosen.ratio(answers)
        of_tokens = chosen.per_token(ratio, answers, options)
        if options.kl.place == "loss":
            divergence = in_loss(options.kl.chosen, answers.logp, batch["reference"], mask, options.kl.of)
            of_tokens = of_tokens + options.kl.coefficient * divergence
        weight = chosen.weight(mask, max_answer).to(of_tokens.dtype)
        total = (of_tokens * weight).masked_fill(~mask, 0.0).sum()
        sums, n_tokens = {chosen.unit: total}, mask.sum()
        n_units = torch.tensor(float(batch.units[chosen.unit]))
        metrics = {"loss": (total.detach(), n_units), **_measured(ratio, answers, found["entropy"], options)}
        if options.kl.place != "none":
            nearness = k3(answers.logp.detach() - batch["reference"])
            metrics["kl"] = (nearness.masked_fill(~mask, 0.0).sum(), n_tokens)
        if options.entropy:
            _add(sums, "token", -options.entropy * found["entropy"].sum())
        if critic:
            errors = value_loss(found["values"], batch["values"], batch["returns"], critic.clip)
            of_values = errors.masked_fill(~mask, 0.0).sum()
            _add(sums, "token", critic.weight * of_values)
            metrics["value_loss"] = (of_values.detach(), n_tokens)
        return LossTerms(sums, metrics)

    return loss


def _read(
    model: nn.Module, batch: Batch, targets: Tensor, temperature: float, asked: tuple[str, ...]
) -> dict[str, Tensor]:
    """The results of the one forward pass."""
    where = (batch.tensors.get("positions"), batch.tensors.get("documents"))
    options: dict[str, Any] = {"n_targets": batch.units["token"], "temperature": temperature, "returns": asked}
    if "allowed" in batch.tensors:
        options["allowed"] = batch["allowed"]
    found: dict[str, Any] = model(batch["tokens"], targets, *where, **options)
    return found


def _add(sums: dict[str, Tensor], unit: str, term: Tensor) -> None:
    sums[unit] = sums[unit] + term if unit in sums else term


@torch.no_grad()
def _measured(ratio: Tensor, answers: Answers, entropy: Tensor, options: PolicyOptions) -> dict[str, Mean]:
    """The (sum, count) by token of the ratio, of what is clipped and of the entropy."""
    mask, advantages, n = answers.mask, answers.advantages, answers.mask.sum()
    low = mask & (advantages < 0) & (ratio < 1 - options.clip_low)
    high = mask & (advantages > 0) & (ratio > 1 + options.clip_up)
    return {
        "ratio": (ratio.masked_fill(~mask, 0.0).sum(), n),
        "clip/low": (low.sum(), n),
        "clip/high": (high.sum(), n),
        "entropy": (entropy.sum(), n),
    }
