"""The loss of supervised fine-tuning: nats of the assistant's tokens, averaged over tokens, turns or conversations.

Each supervised token has a weight, and the weights of a unit add up to one: 1 for a token, 1 / n for each of the n
tokens of a turn or conversation. The sum of weighted nats over the number of units in the global batch is then the mean
over those units, whatever the micro-batches, the packing and the ranks.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from babyllm.data.batch import Batch
from babyllm.objectives import Loss, LossTerms
from babyllm.objectives.token_groups import Groups, losses_of_groups
from babyllm.store.conversations import LossAverage
from babyllm.store.task_groups import groups_of, result_name


def conversation_loss(
    average: LossAverage, tasks: Sequence[str], is_packed: bool = False, groups: Groups | None = None
) -> Loss:
    """The loss over conversations in nats, averaged over one unit, with the means of tasks and their groups as metrics.

    Args:
        average: unit that counts once. For "turn" the loss is the mean, over the turns of the global batch, of the
            mean nats of a turn's tokens.
        tasks: names of the task ids in batch["channels"].
        is_packed: whether a row holds several conversations, which must not see each other.
        groups: groups of tokens whose losses are metrics too. A task with the name of a group takes its place.

    Returns:
        A loss of a batch with "tokens", "targets" and "channels" (B, T) int64, "weights" (B, T) float32 and "lengths"
        (B,) int64; when packed also "positions" and "documents" (B, T) int64. Its metrics are "loss", "loss/<task>" and
        "loss/<group of tasks>" in nats, those of the groups in nats per token, and "padding", a share from 0 to 1.
    """
    task_groups = groups_of(tasks)
    names = [result_name(task, task_groups) for task in tasks]
    members = {name: torch.tensor([tasks.index(task) for task in mine]) for name, mine in task_groups.items()}

    def loss(model: nn.Module, batch: Batch) -> LossTerms:
        where = (batch["positions"], batch["documents"]) if is_packed else ()
        weights, n_targets = batch["weights"], batch.units["token"]
        weighted = model(batch["tokens"], batch["targets"], *where, weights=weights, n_targets=n_targets)
        total = weighted.sum()
        nats, shares = torch.zeros(2, len(tasks), device=weights.device)
        channels = batch["channels"].flatten()
        nats.index_add_(0, channels, weighted.detach().flatten())
        shares.index_add_(0, channels, weights.flatten())
        for name, indices in members.items():
            members[name] = indices.to(nats.device)  # copied in the first step
        n_places = torch.tensor(float(weights.numel()))
        metrics = {
            "loss": (total.detach(), torch.tensor(float(batch.units[average]))),
            "padding": (n_places - batch["lengths"].sum(), n_places),
            # Weights are not 0 where there is a target.
            **losses_of_groups(weighted.detach() / weights, batch["targets"], groups or {}),
            **{f"loss/{name}": (nats[i], shares[i]) for i, name in enumerate(names)},
            **{f"loss/{name}": (nats[mine].sum(), shares[mine].sum()) for name, mine in members.items()},
        }
        return LossTerms({average: total}, metrics)

    return loss
