"""The loss of a classifier: the label of each text from the last token of its row.

texts -> one forward pass -> logits at each row's last token -> cross-entropy -> sum over texts

Legend: B texts, T columns of a row, N labels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from babyllm.data.batch import Batch
from babyllm.model.cross_entropy import IGNORE
from babyllm.objectives import LossTerms


def labels_and_lengths(targets: Tensor) -> tuple[Tensor, Tensor]:
    """The label of each row, and its number of tokens.

    Args:
        targets: (B, T) int64, the label's number at the last token of each row, `IGNORE` elsewhere.

    Returns:
        (B,) and (B,) int64.
    """
    last = (targets != IGNORE).int().argmax(1)
    return targets.gather(1, last.unsqueeze(1)).squeeze(1), last + 1


def classification_loss(model: nn.Module, batch: Batch) -> LossTerms:
    """The cross-entropy of the labels of texts, in nats, for a `WithHead` with several labels.

    Args:
        model: model that returns (B, N) logits for `lengths`.
        batch: "tokens" (B, T) int64, and "targets" as in `labels_and_lengths`.

    Returns:
        The sum over unit "text". Its metrics, by text, are "loss" and "accuracy".
    """
    labels, lengths = labels_and_lengths(batch["targets"])
    logits = model(batch["tokens"], lengths=lengths)
    total = F.cross_entropy(logits, labels, reduction="sum")
    n = torch.tensor(float(len(labels)))
    right = (logits.detach().argmax(1) == labels).sum()
    return LossTerms({"text": total}, {"loss": (total.detach(), n), "accuracy": (right, n)})
