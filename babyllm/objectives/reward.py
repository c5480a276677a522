"""The losses of a reward model: of two answers, the chosen one has the higher score.

pairs -> whole answers, up to their end tokens -> one forward pass -> scores -> loss of each pair -> sum over pairs

Legend: B pairs, T columns of a row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from babyllm.config.values import Rate
from babyllm.data.batch import Batch
from babyllm.model.cross_entropy import IGNORE
from babyllm.objectives import Loss, LossTerms


@dataclass(frozen=True)
class RewardOptions:
    """How the scores of two answers are compared.

    Attributes:
        name: loss by name: last compares the scores at the last tokens; divergence compares them at every token from
            the first at which the answers differ.
        use_margin: whether the scores must differ by the margin in the data, where there is one.
        centre: weight of the squared sum of both scores, which keeps scores near 0 (Eisenstein et al. 2023).
    """

    name: Literal["last", "divergence"] = "last"
    use_margin: bool = False
    centre: Rate = 0.0


def whole_answers(tokens: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Rows up to the end token of their answers, which a row for prediction has as a target alone.

    Args:
        tokens: (N, T) int64 ids.
        targets: (N, T) int64 ids, or `IGNORE` outside of the answer.

    Returns:
        (N, T + 1) ids, and (N,) the number of those up to the answer's last token.
    """
    places = torch.arange(1, targets.shape[1] + 1, device=targets.device)
    last = ((targets != IGNORE) * places).amax(1, keepdim=True)  # (N, 1), the column of the last token in ids
    ids = F.pad(tokens, (0, 1))
    return ids.scatter(1, last, targets.gather(1, (last - 1).clamp_min(0)).clamp_min(0)), last.squeeze(1) + 1


def bradley_terry(chosen: Tensor, rejected: Tensor, margins: Tensor | float = 0.0) -> Tensor:
    """-log sigmoid(chosen - rejected - margin), of any shape (Ouyang et al. 2022, equation 1; Touvron et al. 2023)."""
    return -F.logsigmoid(chosen - rejected - margins)


def divergence(values: Tensor, ids: Tensor, lengths: Tensor, margins: Tensor | float = 0.0) -> Tensor:
    """The mean of `bradley_terry` over the tokens from the first difference to the end of the longer answer.

    After the end of the shorter answer its last score stands for it, so that no padding is read.

    Args:
        values: (B, 2, T) the score at each token, of the chosen and the rejected answer.
        ids: (B, 2, T) int64 ids.
        lengths: (B, 2) numbers of ids up to the answer's last token.
        margins: (B, 1), or one number.

    Returns:
        (B,).
    """
    T = ids.shape[2]
    places = torch.arange(T, device=ids.device)
    has_ended = places >= lengths.unsqueeze(2)  # (B, 2, T)
    differs = (ids[:, 0] != ids[:, 1]) | has_ended.any(1)
    is_counted = (differs.cumsum(1) > 0) & ~has_ended.all(1)
    held = torch.minimum(places.expand_as(ids), lengths.unsqueeze(2) - 1)
    chosen, rejected = values.gather(2, held).unbind(1)
    losses = bradley_terry(chosen, rejected, margins).masked_fill(~is_counted, 0.0)
    return losses.sum(1) / is_counted.sum(1).clamp_min(1)


def last_scores(values: Tensor, lengths: Tensor) -> Tensor:
    """The score at the last token of each answer: (B, 2, T) and (B, 2) -> (B, 2)."""
    return values.gather(2, lengths.unsqueeze(2) - 1).squeeze(2)


def reward_loss(options: RewardOptions) -> Loss:
    """The loss of a reward model over pairs, for a `WithHead` with one label.

    Returns:
        A loss over unit "pair" of a batch with "tokens" and "targets" (B, 2, T) int64, chosen answers first, and
        "margins" (B, 1) float32. Its metrics, by pair, are "loss", "accuracy" (half for equal scores),
        "score/chosen", "score/rejected" and "score/margin".
    """

    def loss(model: nn.Module, batch: Batch) -> LossTerms:
        tokens, targets = (batch[name].flatten(0, 1) for name in ("tokens", "targets"))
        ids, lengths = whole_answers(tokens, targets)
        values = model(ids).view(-1, 2, ids.shape[1])
        pairs, ends = ids.view_as(values), lengths.view(-1, 2)
        scores = last_scores(values, ends)
        margins: Tensor | float = batch["margins"] if options.use_margin else 0.0
        if options.name == "divergence":
            losses = divergence(values, pairs, ends, margins)
        else:
            losses = bradley_terry(scores[:, :1], scores[:, 1:], margins).squeeze(1)
        total = losses.sum() + options.centre * scores.sum(1).square().sum()
        n = torch.tensor(float(batch.units["pair"]))
        gaps = (scores[:, 0] - scores[:, 1]).detach()
        sums = {
            "loss": total.detach(),
            "accuracy": ((gaps > 0) + 0.5 * (gaps == 0)).sum(),
            "score/chosen": scores[:, 0].detach().sum(),
            "score/rejected": scores[:, 1].detach().sum(),
            "score/margin": gaps.sum(),
        }
        return LossTerms({"pair": total}, {name: (value, n) for name, value in sums.items()})

    return loss
