"""The language-modelling loss with that of a second head, which predicts the part of speech of the same targets.

batch -> one pass -> nats of targets, scores of classes -> sum over tokens + weight x sum over targets with a class

Legend: B batch, T time, V vocabulary, C classes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from babyllm.data.batch import Batch
from babyllm.data.order.tagged_targets import TAGGED
from babyllm.model.cross_entropy import IGNORE
from babyllm.objectives import LossTerms
from babyllm.objectives.token_groups import Groups, losses_of_groups

NO_CLASS = -1


def next_token_and_class(
    model: nn.Module, batch: Batch, *, classes: Tensor, weight: float, groups: Groups | None = None
) -> LossTerms:
    """The loss of `language_model`, and the cross-entropy of the classes of the same targets.

    Args:
        model: model that returns "nats" and "values", (B, T, C).
        batch: tokens and targets (B, T) int64, with the units "token" and "tagged".
        classes: (V,) int64, the class of each id; -1 for none, which is not predicted.
        weight: factor of the cross-entropy of classes.
        groups: groups of targets whose loss is measured apart.

    Returns:
        The sum of nats over unit "token", and the weighted cross-entropy in nats over unit "tagged". The metrics are
        those of `language_model`; and over the targets with a class "loss/pos", unweighted, and "accuracy/pos".
    """
    found = model(**batch.tensors, n_targets=batch.units["token"], returns=("nats", "values"))
    nats, targets = found["nats"], batch["targets"]
    of_tokens = nats.sum()
    goals = torch.where(targets == IGNORE, NO_CLASS, classes[targets.clamp_min(0)]).flatten()
    scores = found["values"].flatten(0, 1)
    of_classes = F.cross_entropy(scores, goals, ignore_index=NO_CLASS, reduction="sum")
    n_tokens, n_tagged = (torch.tensor(float(batch.units[unit])) for unit in ("token", TAGGED))
    metrics = {
        "loss": (of_tokens.detach(), n_tokens),
        **losses_of_groups(nats.detach(), targets, groups or {}),
        "loss/pos": (of_classes.detach(), n_tagged),
        "accuracy/pos": ((scores.detach().argmax(1) == goals).sum(), n_tagged),
    }
    return LossTerms({"token": of_tokens, TAGGED: weight * of_classes}, metrics)
