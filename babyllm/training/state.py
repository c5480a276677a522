"""The state of a training run, and two other inputs of the loop: actions between steps, and a watch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from babyllm.data.batch import Stream
from babyllm.model.interface import Model
from babyllm.objectives import Mean
from babyllm.optim.average import Average
from babyllm.runtime import Runtime
from babyllm.training.watch import Memory, WatchConfig

STOP_SIGNAL = "stop signal"


@dataclass
class TrainState:
    """A run in progress.

    Attributes:
        model: bare model; the loop wraps it for DDP.
        optimizer: optimizer of its parameters.
        scaler: gradient scaler, disabled unless training in float16.
        stream: source of batches.
        runtime: device, ranks, stop signal.
        origin: source of the weights at step 0, in words; empty if the model's own `origin` suffices.
        step: number of finished optimizer steps.
        tokens: number of tokens read over all ranks: unit "input" of the batches if they have it, else unit "token".
        skipped: number of steps not taken, for instance because their gradients were not finite.
        best: (best result so far by `best_by`, its step); None before the first evaluation.
        best_by: name of the result on held-out data by which a step is best.
        bad_evaluations: number of evaluations since `best`.
        stop_reason: why the loop must end before the plan does; None if it need not.
        pending: whether an action due at this step has yet to run.
        has_trained: whether `train` was called; a further call continues the run, whatever ended the last one.
        memory: losses and skips of earlier steps, by which the next is judged.
        average: moving average of the weights, which is evaluated and saved in their place; None without one.
        grad_norm: gradient norm of the last step, before clipping.
        lr: learning rate of the last step.
        cuts: number of times that micro-batches were halved because they did not fit the device.
        busy_s: seconds spent in steps since the last `take_times`, including waits for data.
        data_wait_s: seconds spent waiting for data since the last `take_times`.
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
    best_by: str = "all/loss"
    bad_evaluations: int = 0
    stop_reason: str | None = None
    pending: bool = False
    has_trained: bool = False
    memory: Memory = field(default_factory=Memory)
    average: Average | None = None
    grad_norm: float = 0.0
    lr: float = 0.0
    cuts: int = 0
    busy_s: float = 0.0
    data_wait_s: float = 0.0
    _meters: dict[str, list[Tensor]] = field(default_factory=dict)

    def add_metrics(self, metrics: dict[str, Mean]) -> None:
        """Add a micro-batch's (sum, count) pairs, scalar tensors, to the means that `take_metrics` will return."""
        for name, (total, count) in metrics.items():
            meter = self._meters.setdefault(name, [torch.zeros(()), torch.zeros(())])
            meter[0] = meter[0].to(total.device, torch.float64 if total.device.type == "cpu" else None) + total
            meter[1] = meter[1] + count

    def heed_stop_signal(self) -> bool:
        """Whether any rank received a stop signal; if so, it becomes the `stop_reason`. Every rank must call it."""
        if self.runtime.sum([float(self.runtime.stop_requested)])[0]:
            self.stop_reason = STOP_SIGNAL
        return self.stop_reason == STOP_SIGNAL

    def take_times(self) -> tuple[float, float]:
        """(`busy_s`, `data_wait_s`) in seconds; both are reset to 0."""
        times = self.busy_s, self.data_wait_s
        self.busy_s = self.data_wait_s = 0.0
        return times

    def take_metrics(self) -> dict[str, float]:
        """Return each metric's mean over all ranks since the last call, unless its count is 0; every rank must call it.

        Raises:
            ValueError: the names of the metrics differ between ranks.
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
    """An action of all ranks between steps.

    Attributes:
        steps: interval in steps; 0 runs it only at the end.
        run: function of the state; it returns False if a stop signal cut it short, so that it must run again.
        at_end: whether it also runs after the last step, if it has not just run.
        at_stop: whether it also runs when a stop signal ends the loop.
        is_owed: whether a checkpoint saved at its step before it has run is marked `TrainState.pending`.
    """

    steps: int
    run: Callable[[TrainState], object]
    at_end: bool = True
    at_stop: bool = False
    is_owed: bool = False


@dataclass(frozen=True)
class Watch:
    """How the loop judges its steps, reports them and goes back.

    Attributes:
        config: criteria by which steps are judged.
        report: function that prints a line; called by rank 0.
        go_back: function that restores the last saved step, which continues with the given row; it returns whether
            there is such a step, and every rank calls it.
    """

    config: WatchConfig = field(default_factory=WatchConfig)
    report: Callable[[str], None] = print
    go_back: Callable[[TrainState, int], bool] = lambda state, row: False
