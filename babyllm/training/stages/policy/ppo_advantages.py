"""From the answers of a rollout to what the loss of PPO reads beside them.

Rollout -> rows of whole answers -> Critique -> advantages, returns, old values, reference (n, T)

Legend: n answers of this rank, T columns of a row.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from babyllm.model.cross_entropy import IGNORE
from babyllm.objectives.policy.credit import Scored
from babyllm.rollouts.rollout_stream import Rollout
from babyllm.runtime import Runtime
from babyllm.runtime.precision import reads_in
from babyllm.training.stages.policy.critic import Critique
from babyllm.training.stages.policy.reference_model import Reference

SHORTEST = 2  # tokens of an answer that is learned from


class PpoAdvantages:
    """The advantage function of `Rollouts` for PPO; what it remembers is part of the stream's state.

    Answers without a reward and answers of at most one token are counted and have no part in the loss: their targets
    become `IGNORE`.
    """

    def __init__(self, critique: Critique, reference: Reference | None, runtime: Runtime) -> None:
        """Keep what advantages depend on.

        Args:
            critique: values, and what turns scores into advantages.
            reference: log-probabilities of the reference model; None without a divergence.
            runtime: runtime of the run.
        """
        self._critique, self._reference, self._runtime = critique, reference, runtime

    def __call__(self, rollout: Rollout) -> dict[str, Tensor]:
        """The tensors (n, T), and the targets that are left; adds numbers to the rollout's. Every rank must call it."""
        tokens, targets, old = (rollout.tensors[name] for name in ("tokens", "targets", "old"))
        mask = targets != IGNORE
        is_short = mask.sum(1) < SHORTEST
        kept = ~rollout.rewards.isnan() & ~is_short
        width = int(mask.any(0).nonzero().max()) + 1 if mask.any() else 1
        allowed = rollout.tensors.get("allowed")
        reference = None if self._reference is None else self._reference(tokens, targets, allowed)
        of_answers = [None if x is None else x[:, :width] for x in (old, reference, mask)]
        is_truncated = rollout.tensors["truncated"].squeeze(1)
        scored = Scored(rollout.rewards, of_answers[0], of_answers[1], old, of_answers[2], is_truncated)  # type: ignore[arg-type]
        whole = whole_rows(tokens, targets)[:, : width + 1].contiguous().to(self._runtime.device)
        with reads_in(self._runtime.device, self._runtime.dtype):
            found = self._critique(whole, scored, kept)
        n, n_short = self._runtime.sum([float(len(kept)), float(is_short.sum())])
        rollout.numbers |= {**self._critique.metrics, "too_short": n_short / max(n, 1.0)}
        found = {name: F.pad(x, (0, targets.shape[1] - width)) for name, x in found.items()}
        if reference is not None:
            found["reference"] = reference
        return {**found, "targets": targets.masked_fill(~kept.unsqueeze(1), IGNORE)}

    def state(self) -> dict[str, Any]:
        """What later rollouts depend on, as JSON values."""
        return self._critique.credit.state_dict()

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a stored state."""
        self._critique.credit.load_state_dict(state)


def whole_rows(tokens: Tensor, targets: Tensor) -> Tensor:
    """(n, T) inputs and targets -> (n, T + 1) ids of prompts and answers, the last token of each answer included."""
    following = torch.cat([tokens[:, 1:], torch.zeros_like(tokens[:, :1])], 1)
    return torch.cat([tokens[:, :1], torch.where(targets == IGNORE, following, targets)], 1)
