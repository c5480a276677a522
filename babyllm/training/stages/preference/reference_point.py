"""The reference point of KTO, one number for each step: how far the model is from its reference on other answers.

loader -> micro-batches of a step, rows (B, 2, T): own answer, answer to another prompt
       -> log-ratios of the other answers, of all ranks -> their mean, at least 0
       -> micro-batches of own answers, with "point"
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from babyllm.data.batch import Batch, Stream
from babyllm.model.cross_entropy import IGNORE
from babyllm.model.interface import Model
from babyllm.objectives.preference.preference_losses import answer_logps, reference_logps
from babyllm.runtime import Runtime


class WithReferencePoint:
    """The steps of a stream of `Mismatched` rows, as single answers with the reference point of their step.

    The point is an estimate of the divergence of the model from its reference: the mean over the global batch of the
    log-ratio of the other answers, in nats, and at least 0 (Ethayarajh et al. 2024, section 4.1). It is computed once
    for each step, before the first micro-batch, with the weights that the step begins with, in evaluation mode as the
    reference is. So it depends on neither micro-batches nor ranks, and has no gradient. The position is the stream's.
    """

    def __init__(self, stream: Stream, model: Model, runtime: Runtime, *, by_adapter: bool = False) -> None:
        """Begin where the stream is.

        Args:
            stream: source of the steps; its rows have "reference" (B, 2) unless `by_adapter`.
            model: bare model that is trained, on its device.
            runtime: runtime of the run.
            by_adapter: whether the reference is the model with its adapter switched off.
        """
        self._stream, self._model, self._runtime, self._by_adapter = stream, model, runtime, by_adapter

    def __iter__(self) -> Iterator[list[Batch]]:
        """The stream itself."""
        return self

    def __next__(self) -> list[Batch]:
        """The micro-batches of the next step on this rank; every rank must call it."""
        found = next(self._stream)
        n_targets = [(batch["targets"][:, 0] != IGNORE).sum(-1) for batch in found]  # on the CPU, without a wait
        batches = [batch.to(self._runtime.device) for batch in found]
        point = self._point(batches)
        return [_own(batch, point, n) for batch, n in zip(batches, n_targets, strict=True)]

    @torch.no_grad()
    def _point(self, batches: Sequence[Batch]) -> float:
        """The reference point of a step in nats, the same on every rank."""
        was_training = self._model.training
        self._model.eval()
        sums: list[torch.Tensor] = []
        with self._uncompiled():
            for batch in batches:
                others = _side(batch, 1)
                with self._runtime.autocast():
                    logps = answer_logps(self._model, others)
                    reference = reference_logps(self._model, others, by_adapter=self._by_adapter)
                sums.append((logps - reference.view_as(logps)).sum())
        self._model.train(was_training)
        mine = [sum(torch.stack(sums).tolist()), float(sum(len(batch["tokens"]) for batch in batches))]
        total, n = self._runtime.sum(mine)
        return max(0.0, total / n)

    def _uncompiled(self) -> AbstractContextManager[Any]:
        """The model is compiled within its first step, so a resumed run would round its first point otherwise."""
        return torch.compiler.set_stance("force_eager") if self._runtime.compile else nullcontext()

    def metrics(self) -> dict[str, float]:
        """Numbers by name about the position."""
        return self._stream.metrics()

    def leave_out(self, row: int) -> None:
        """Skip to a later row."""
        self._stream.leave_out(row)

    def state_dict(self) -> dict[str, Any]:
        """The position of the stream."""
        return self._stream.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue after a stored position."""
        self._stream.load_state_dict(state)


def _own(batch: Batch, point: float, n_targets: torch.Tensor) -> Batch:
    """The record's own answers, with the reference point; `n_targets` (B,) are on the CPU."""
    tensors = {name: batch[name] for name in ("desirable", "numbers")} | _side(batch, 0).tensors
    tensors["point"] = torch.full_like(batch["desirable"], point)
    row_units = batch.row_units and {**batch.row_units, "token": n_targets}
    return Batch(tensors, batch.units | {"token": int(n_targets.sum())}, batch.rows, row_units)


def _side(batch: Batch, side: int) -> Batch:
    """One side of rows, as single answers; "reference" is (B, 1)."""
    tensors = {name: batch[name][:, side].contiguous() for name in ("tokens", "targets")}
    if "reference" in batch.tensors:
        tensors["reference"] = batch["reference"][:, side : side + 1]
    return Batch(tensors)
