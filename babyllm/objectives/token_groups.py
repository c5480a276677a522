"""The loss of some targets apart from the others: of special tokens, and of tokens that end a text or an answer.

token_groups: ids -> a table (V,) of each group -> losses_of_groups: nats of a batch -> (sum, count) of each group

One mean hides these tokens: a model that never ends its answers has nearly the loss of one that always does.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from babyllm.model.cross_entropy import IGNORE
from babyllm.objectives import Mean

Groups = Mapping[str, Tensor]
"""Groups of tokens by the names of their metrics: a (V,) bool tensor each, True for a token of the group."""


def token_groups(special: Collection[int], ends: Collection[int], vocab_size: int, device: torch.device) -> Groups:
    """The groups "loss/special" and "loss/end", as tensors on a device.

    Args:
        special: ids of all special tokens.
        ends: ids of the tokens that end a text or an answer.
        vocab_size: number of rows V of the model's output layer.
        device: device of the targets.
    """
    ids = torch.arange(vocab_size)
    members = {"loss/special": [*special, *ends], "loss/end": list(ends)}
    return {name: torch.isin(ids, torch.tensor(of_group)).to(device) for name, of_group in members.items()}


def losses_of_groups(nats: Tensor, targets: Tensor, groups: Groups) -> dict[str, Mean]:
    """The (sum of nats, number of targets) of each group, by name, without a wait for the device.

    Args:
        nats: (B, T) float32 nats of each target, without gradient.
        targets: (B, T) int64 ids, or `IGNORE`.
        groups: groups of tokens.
    """
    ids, is_target = targets.clamp_min(0), targets != IGNORE
    members = {name: is_member[ids] & is_target for name, is_member in groups.items()}
    return {name: (torch.where(is_mine, nats, 0.0).sum(), is_mine.sum()) for name, is_mine in members.items()}
