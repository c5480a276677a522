"""The losses of direct preference optimisation and its relatives, as sums over pairs or answers.

batch -> one forward pass over both sides -> log-probabilities of answers -> PREFERENCE_LOSSES -> sum over pairs
single answers with verdicts -> one forward pass -> UNPAIRED_LOSSES -> sum over answers

Legend: B pairs or answers, T columns of a row.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from babyllm.data.batch import Batch
from babyllm.model.adapt.lora import adapter_off
from babyllm.model.cross_entropy import IGNORE
from babyllm.objectives import Loss, LossTerms, Mean
from babyllm.objectives.preference.preference_options import PreferenceName, PreferenceOptions

NEAREST = 1e-6
"""The least nats of a token that ORPO computes odds of."""


class Sides(NamedTuple):
    """What a loss of a pair is a function of; all (B, 2), the chosen answer first.

    Attributes:
        logps: log-probabilities of the answers in nats, with gradient.
        reference: those of the reference model; 0 for a loss without one.
        lengths: tokens of the answers.
    """

    logps: Tensor
    reference: Tensor
    lengths: Tensor

    @property
    def log_ratios(self) -> Tensor:
        """Log-probabilities less those of the reference, (B, 2)."""
        return self.logps - self.reference


def gap(of_sides: Tensor) -> Tensor:
    """Chosen less rejected: (B, 2) -> (B,)."""
    return of_sides[:, 0] - of_sides[:, 1]


def sigmoid(sides: Sides, options: PreferenceOptions) -> Tensor:
    """Direct preference optimisation (Rafailov et al. 2023, equation 7), conservative with label smoothing."""
    margin, smoothing = options.beta * gap(sides.log_ratios), options.label_smoothing
    return -(1 - smoothing) * F.logsigmoid(margin) - smoothing * F.logsigmoid(-margin)


def robust(sides: Sides, options: PreferenceOptions) -> Tensor:
    """The unbiased loss under wrong labels (Chowdhury et al. 2024, equation 12)."""
    margin, smoothing = options.beta * gap(sides.log_ratios), options.label_smoothing
    return (-(1 - smoothing) * F.logsigmoid(margin) + smoothing * F.logsigmoid(-margin)) / (1 - 2 * smoothing)


def hinge(sides: Sides, options: PreferenceOptions) -> Tensor:
    """The hinge loss of the margin (Zhao et al. 2023, equation 7, with the reference's log-probabilities)."""
    return F.relu(1 - options.beta * gap(sides.log_ratios))


def ipo(sides: Sides, options: PreferenceOptions) -> Tensor:
    """Identity preference optimisation (Azar et al. 2024, equation 17), of the mean over an answer's tokens."""
    return (gap(sides.log_ratios / sides.lengths) - 1 / (2 * options.beta)) ** 2


def ipo_sum(sides: Sides, options: PreferenceOptions) -> Tensor:
    """Identity preference optimisation (Azar et al. 2024, equation 17), of the sum over an answer's tokens."""
    return (gap(sides.log_ratios) - 1 / (2 * options.beta)) ** 2


def orpo(sides: Sides, options: PreferenceOptions) -> Tensor:
    """The chosen answer's mean nats, and its odds over the rejected one's (Hong et al. 2024, equations 6 and 7)."""
    means = sides.logps / sides.lengths
    certain = means.clamp(max=-NEAREST)  # the odds of an answer that is certain are infinite
    log_odds = certain - torch.log(-torch.expm1(certain))
    return -means[:, 0] - options.beta * F.logsigmoid(gap(log_odds))


def simpo(sides: Sides, options: PreferenceOptions) -> Tensor:
    """Mean log-probabilities as rewards, which must differ by gamma (Meng et al. 2024, equation 6)."""
    return -F.logsigmoid(options.beta * gap(sides.logps / sides.lengths) - options.gamma)


PREFERENCE_LOSSES: dict[PreferenceName, Callable[[Sides, PreferenceOptions], Tensor]] = {
    "sigmoid": sigmoid,
    "ipo": ipo,
    "ipo_sum": ipo_sum,
    "hinge": hinge,
    "robust": robust,
    "orpo": orpo,
    "simpo": simpo,
}


def preference_loss(options: PreferenceOptions, *, by_adapter: bool = False) -> Loss:
    """The loss of a model over pairs of answers.

    Args:
        options: loss by name, and its settings.
        by_adapter: whether the reference is the model itself with its adapter switched off, read in a second pass, and
            not "reference" of the batch.

    Returns:
        A loss over unit "pair" of a batch with "tokens" and "targets" (B, 2, T) int64, chosen answers first, and, if
        the loss needs one, "reference" (B, 2) float32, the log-probabilities of the reference model in nats. Its
        metrics, by pair, are "loss", "rewards/chosen", "rewards/rejected", "rewards/margin" and "rewards/accuracy" (the
        implicit rewards, beta times the change since the reference), "logps/chosen" and "logps/rejected" in nats.

    Raises:
        UserError: the options do not fit each other.
    """
    options.check()
    if options.is_unpaired:
        return verdict_loss(options, UNPAIRED_LOSSES[options.name], by_adapter=by_adapter)
    of_pair = PREFERENCE_LOSSES[options.name]

    def loss(model: nn.Module, batch: Batch) -> LossTerms:
        targets = batch["targets"]
        logps = answer_logps(model, batch)
        lengths = (targets != IGNORE).sum(-1)
        reference = (
            reference_logps(model, batch, by_adapter=by_adapter) if options.needs_reference else torch.zeros_like(logps)
        )
        sides = Sides(logps, reference, lengths)
        if options.length_normalised:
            sides = Sides(logps / lengths, reference / lengths, torch.ones_like(lengths))
        losses = of_pair(sides, options)
        if options.sft_weight:
            losses = losses - options.sft_weight * (logps / lengths)[:, 0]
        n = torch.tensor(float(batch.units["pair"]))
        rewards = options.beta * sides.log_ratios.detach()
        if options.name in ("orpo", "simpo"):
            rewards = rewards / lengths
        return LossTerms({"pair": losses.sum()}, _measured(losses, rewards, logps, n))

    return loss


def answer_logps(model: nn.Module, batch: Batch) -> Tensor:
    """The log-probability of each answer in nats, the shape of the rows: (B, 2) for pairs, (B,) for single answers."""
    tokens, targets = batch["tokens"], batch["targets"]
    rows = (tokens.flatten(0, -2), targets.flatten(0, -2))
    nats: Tensor = model(*rows, n_targets=batch.units.get("token"))
    return -nats.sum(-1).view(tokens.shape[:-1])


def reference_logps(model: nn.Module, batch: Batch, *, by_adapter: bool) -> Tensor:
    """The log-probability of each answer under the reference model in nats.

    Args:
        model: model that is trained.
        batch: rows; with "reference", (B, 2) or (B, 1), unless `by_adapter`.
        by_adapter: whether the reference is the model with its adapter switched off, which is read now.

    Returns:
        (B, 2), or (B, 1) or (B,) for single answers.
    """
    if not by_adapter:
        return batch["reference"]
    with adapter_off(model):
        return answer_logps(model, batch)


@torch.no_grad()
def _measured(losses: Tensor, rewards: Tensor, logps: Tensor, n: Tensor) -> dict[str, Mean]:
    margins = gap(rewards)
    sums = {
        "loss": losses.sum(),
        "rewards/chosen": rewards[:, 0].sum(),
        "rewards/rejected": rewards[:, 1].sum(),
        "rewards/margin": margins.sum(),
        "rewards/accuracy": ((margins > 0) + 0.5 * (margins == 0)).sum(),
        "logps/chosen": logps[:, 0].sum(),
        "logps/rejected": logps[:, 1].sum(),
    }
    return {name: (total, n) for name, total in sums.items()}


class Verdicts(NamedTuple):
    """What a loss of a single answer is a function of; all (B,).

    Attributes:
        log_ratios: log-probabilities of the answers less those of the reference model, in nats, with gradient.
        is_good: bool, whether the answer is a good one.
        point: the reference point of the step in nats, without gradient; 0 for a loss without one.
    """

    log_ratios: Tensor
    is_good: Tensor
    point: Tensor

    def toward_good(self, rewards: Tensor) -> Tensor:
        """Rewards (B,) with the sign by which a higher one is right: as they are for good answers, negated for bad."""
        return torch.where(self.is_good, rewards, -rewards)


def kto(verdicts: Verdicts, options: PreferenceOptions) -> Tensor:
    """Good answers gain on the reference point, and bad ones lose (Ethayarajh et al. 2024, equation 8)."""
    return torch.sigmoid(-verdicts.toward_good(options.beta * (verdicts.log_ratios - verdicts.point)))


def apo_zero_unpaired(verdicts: Verdicts, options: PreferenceOptions) -> Tensor:
    """Good answers gain on the reference model, and bad ones lose (D'Oosterlinck et al. 2024, section 4, unpaired)."""
    return torch.sigmoid(-verdicts.toward_good(options.beta * verdicts.log_ratios))


UNPAIRED_LOSSES: dict[PreferenceName, Callable[[Verdicts, PreferenceOptions], Tensor]] = {
    "kto": kto,
    "apo_zero_unpaired": apo_zero_unpaired,
}


def verdict_loss(
    options: PreferenceOptions, of_answer: Callable[[Verdicts, PreferenceOptions], Tensor], *, by_adapter: bool = False
) -> Loss:
    """The loss of a model over single answers with verdicts.

    Args:
        options: settings of the loss; the weights of good and of bad answers are applied here.
        of_answer: loss of each answer, (B,), before it is weighted.
        by_adapter: whether the reference is the model itself with its adapter switched off.

    Returns:
        A loss over unit "answer" of a batch with "tokens" and "targets" (B, T) int64, "desirable" and "reference"
        (B, 1) float32 and, for a loss with a reference point, "point" (B, 1) float32, the same number for all answers
        of the step. Its metrics are those of `preference_loss` without the margin, and "reference_point" in nats.
    """

    def loss(model: nn.Module, batch: Batch) -> LossTerms:
        logps = answer_logps(model, batch)
        ratios = logps - reference_logps(model, batch, by_adapter=by_adapter).view_as(logps)
        point = batch["point"].view_as(logps) if options.has_reference_point else torch.zeros_like(logps)
        verdicts = Verdicts(ratios, batch["desirable"].squeeze(1) > 0, point.detach())
        weights = torch.where(verdicts.is_good, options.desirable_weight, options.undesirable_weight)
        losses = weights * of_answer(verdicts, options)
        metrics = _measured_verdicts(losses, verdicts, logps, options, torch.tensor(float(batch.units["answer"])))
        return LossTerms({"answer": losses.sum()}, metrics)

    return loss


@torch.no_grad()
def _measured_verdicts(
    losses: Tensor, verdicts: Verdicts, logps: Tensor, options: PreferenceOptions, n: Tensor
) -> dict[str, Mean]:
    rewards, is_good = options.beta * verdicts.log_ratios, verdicts.is_good
    metrics = {"loss": (losses.sum(), n), "rewards/accuracy": ((verdicts.toward_good(rewards) > 0).sum(), n)}
    for side, here in (("chosen", is_good), ("rejected", ~is_good)):
        metrics[f"rewards/{side}"] = (rewards.masked_fill(~here, 0.0).sum(), here.sum())
        metrics[f"logps/{side}"] = (logps.masked_fill(~here, 0.0).sum(), here.sum())
    return metrics | ({"reference_point": (verdicts.point.sum(), n)} if options.has_reference_point else {})
