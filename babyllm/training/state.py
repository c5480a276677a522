"""What a training run consists of, in one small dataclass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from babyllm.data.batch import Stream
from babyllm.model.interface import Model
from babyllm.objectives import Mean
from babyllm.runtime import Runtime
from babyllm.training.watch import Memory, WatchConfig

STOP_SIGNAL = "stop signal"


@dataclass
class TrainState:
    """A run in progress.

    Attributes:
        model: the bare model; the loop wraps it for DDP.
        optimizer: over its parameters.
        scaler: gradient scaler, disabled unless training in float16.
        stream: where batches come from.
        runtime: device, ranks, stop signal.
        origin: what the weights were at step 0, in words; empty if the model's own `origin` tells all.
        step: finished optimizer steps.
        tokens: that were read, over all ranks: units "input" where there are such, else "token".
        skipped: steps that were not taken, such as those whose gradients were not finite.
        best: lowest mean held-out loss so far and its step.
        bad_evaluations: evaluations since `best`.
        stop_reason: why the loop is to end before the plan does; None while it is not.
        pending: whether something that is due at this step has yet to run.
        has_trained: whether `train` was called; a further call goes on, whatever ended the one before.
        memory: of losses and skipped steps.
        grad_norm: of the last step, before clipping.
        lr: of the last step.
        busy_s: seconds spent in steps, waiting for data included, since the last `take_times`.
        data_wait_s: seconds spent waiting for data since then.
    """

    model: Model
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    stream: Stream
    runtime: Runtime
    origin: str = ""
    step: int = 0
    tokens: int = 0
    skipped: int = 0
    best: tuple[float, int] | None = None
    bad_evaluations: int = 0
    stop_reason: str | None = None
    pending: bool = False
    has_trained: bool = False
    memory: Memory = field(default_factory=Memory)
    grad_norm: float = 0.0
    lr: float = 0.0
    busy_s: float = 0.0
    data_wait_s: float = 0.0
    _meters: dict[str, list[Tensor]] = field(default_factory=dict)

    def add_metrics(self, metrics: dict[str, Mean]) -> None:
        """Add a micro-batch's (sum, count) pairs to what `take_metrics` will return."""
        for name, (total, count) in metrics.items():
            meter = self._meters.setdefault(name, [torch.zeros(()), torch.zeros(())])
            meter[0] = meter[0].to(total.device, torch.float64 if total.device.type == "cpu" else None) + total
            meter[1] = meter[1] + count

    def heed_stop_signal(self) -> bool:
        """Whether a stop signal came to any rank, which then is the `stop_reason`; every rank must call it."""
        if self.runtime.sum([float(self.runtime.stop_requested)])[0]:
            self.stop_reason = STOP_SIGNAL
        return self.stop_reason == STOP_SIGNAL

    def take_times(self) -> tuple[float, float]:
        """(`busy_s`, `data_wait_s`), which begin anew."""
        times = self.busy_s, self.data_wait_s
        self.busy_s = self.data_wait_s = 0.0
        return times

    def take_metrics(self) -> dict[str, float]:
        """Return the means since the last call, over all ranks, except means of nothing; every rank must call it.

        Raises:
            ValueError: the ranks' losses name other metrics, so that their sums do not belong together.
        """
        names = sorted(self._meters)
        if not self.runtime.all_equal(repr(names)):
            raise ValueError(
                f"a loss must return the same metrics on every rank, with count 0 for nothing; here {names}"
            )
        flat = [float(x) for name in names for x in self._meters[name]]
        totals = self.runtime.sum(flat)
        self._meters.clear()
        return {name: totals[2 * i] / totals[2 * i + 1] for i, name in enumerate(names) if totals[2 * i + 1]}


class Every(NamedTuple):
    """Something all ranks do between steps.

    Attributes:
        steps: how often; 0 is only at the end.
        run: gets the state; returns False where a stop signal cut it short, so that it is to be run anew.
        at_end: whether it also runs after the last step, if it has not just run.
        at_stop: whether it also runs when a stop signal ends the loop.
        is_owed: whether a checkpoint that is saved before it has run, at its step, says so (`TrainState.pending`).
    """

    steps: int
    run: Callable[[TrainState], object]
    at_end: bool = True
    at_stop: bool = False
    is_owed: bool = False


@dataclass(frozen=True)
class Watch:
    """How the loop judges its steps, whom it tells, and how it goes back.

    Attributes:
        config: what is looked for.
        tell: gets a line for the person who watches; called by rank 0.
        go_back: brings the state to the last saved step, which then goes on at a row, and returns whether there was
            one; called by every rank.
    """

    config: WatchConfig = field(default_factory=WatchConfig)
    tell: Callable[[str], None] = print
    go_back: Callable[[TrainState, int], bool] = lambda state, row: False
