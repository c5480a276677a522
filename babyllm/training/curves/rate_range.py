"""The test of learning rates: the rate grows from step to step until the loss diverges (Smith 2017, section 3.3).

stage begins -> the loop, with a rate that grows by the same factor each step -> RateCurve -> table, suggestion, picture

It is the loop of every run with the run's own data, batch, optimizer and clipping; the weights are thrown away.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

from babyllm.config.values import MAX_MEMBERS, Limits, Positive
from babyllm.errors import UserError
from babyllm.run_directory import CONFIG, step_directories
from babyllm.schedule import Plan

if TYPE_CHECKING:
    from babyllm.runtime import Runtime
    from babyllm.training.run_config import C
    from babyllm.training.stage import Beginning
    from babyllm.training.state import TrainState

PICTURE, RUN_DIR = "lr_range.png", "runs/lr_range"
DIVERGED = "the loss diverges"
_DECADES = 100.0  # the test spans this factor below and above plan.peak_lr
_KEEP = 0.8  # of the running mean that decides when to stop
# The loss diverges when it has lost this share of its gain or is so many times its lowest, but at least this many.
_LOST, _TIMES, _ABOVE = 0.5, 2.0, 1.1
_LEAST_STEPS = 20
_BELOW_EDGE = 4.0


@dataclass(frozen=True)
class RangeOptions:
    """The section `range` of `babyllm lr-range`.

    Attributes:
        steps: number of steps from the lowest rate to the highest; more steps give a smoother curve.
        low: learning rate of the first step; null takes a hundredth of plan.peak_lr.
        high: learning rate of the last step; null takes a hundred times plan.peak_lr.
    """

    steps: Annotated[int, Limits(_LEAST_STEPS, MAX_MEMBERS)] = 120
    low: Positive | None = None
    high: Positive | None = None

    def plan(self, plan: Plan) -> Plan:
        """The plan of the test: a rate that grows exponentially from `low` to `high`, with the clipping of `plan`.

        Raises:
            UserError: `high` is not above `low`.
        """
        low, high = self.low or plan.peak_lr / _DECADES, self.high or plan.peak_lr * _DECADES
        if not low < high:
            raise UserError(f"range.high={high:g}: must be above range.low={low:g}")
        return replace(plan, steps=self.steps, schedule="exponential", warmup=0, peak_lr=low, min_lr=high)


class Suggestion(NamedTuple):
    """The learning rate that a test suggests, and what it is chosen by.

    Attributes:
        rate: suggested plan.peak_lr.
        steepest: rate at which the loss falls fastest for a step of its logarithm.
        lowest: rate at which the loss is lowest.
        edge: highest rate at which the loss is still nearer to its lowest than to divergence.
    """

    rate: float
    steepest: float
    lowest: float
    edge: float


@dataclass
class RateCurve:
    """The loss by learning rate.

    Attributes:
        rates: learning rate of each step taken.
        losses: loss of its global batch in nats, computed before the step.
        has_diverged: whether the test ended because the loss diverged.
    """

    rates: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    has_diverged: bool = False
    _mean: float = 0.0
    _lowest: float = math.inf
    _first: float = math.nan

    def add(self, rate: float, loss: float) -> bool:
        """Add a step; returns whether the loss has diverged."""
        self.rates.append(rate)
        self.losses.append(loss)
        self._mean = _KEEP * self._mean + (1 - _KEEP) * loss
        mean = self._mean / (1 - _KEEP ** len(self.losses))
        if len(self.losses) < _LEAST_STEPS // 2:
            return False
        self._first = mean if math.isnan(self._first) else self._first
        self._lowest = min(self._lowest, mean)
        self.has_diverged = self.has_diverged or mean > _limit(self._first, self._lowest)
        return self.has_diverged

    def smooth(self) -> list[float]:
        """The losses, each averaged with its neighbours, so that the curve does not lag."""
        half = max(2, len(self.losses) // 25)
        spans = [self.losses[max(0, i - half) : i + half + 1] for i in range(len(self.losses))]
        return [math.fsum(span) / len(span) for span in spans]

    def suggestion(self) -> Suggestion | None:
        """The suggested rate; None if the loss did not fall."""
        smooth = self.smooth()
        if len(smooth) < _LEAST_STEPS // 2:
            return None
        lowest = min(range(len(smooth)), key=smooth.__getitem__)
        width = max(2, len(smooth) // 12)
        falls = {i: smooth[i - width] - smooth[i + width] for i in range(width, lowest - width + 1)}
        if not falls or max(falls.values()) <= 0:
            return None
        steepest = max(falls, key=lambda i: falls[i])
        half_way = (smooth[lowest] + _limit(smooth[0], smooth[lowest])) / 2
        edge = max(i for i in range(lowest, len(smooth)) if smooth[i] <= half_way)
        return Suggestion(self.rates[edge] / _BELOW_EDGE, self.rates[steepest], self.rates[lowest], self.rates[edge])


def _limit(first: float, lowest: float) -> float:
    """The loss from which a test counts as diverged, by its first and its lowest value."""
    return max(_ABOVE * lowest, min(lowest + _LOST * (first - lowest), _TIMES * lowest))


Report = Callable[[RateCurve, Path, float, str | None], None]
"""Reports a test: losses by rate, file of the picture, configured plan.peak_lr, what ended the test early."""


def measure_rates(config: C, options: RangeOptions, begin: Callable[[C, Runtime], Beginning], report: Report) -> None:
    """Test learning rates for a run, and report what was found.

    Args:
        config: configuration of the run; `run_dir` is a directory for the test, which keeps data that were prepared.
        options: range of the rates.
        begin: function that begins the stage.
        report: function that prints and draws what was found, called by rank 0.

    Raises:
        UserError: the configuration or the data are at fault, or `run_dir` is the directory of a run.
    """
    from babyllm.console import lasting_output
    from babyllm.parallel.forms import choose_forms
    from babyllm.runtime import start
    from babyllm.training.beginning import take

    _require_no_run(Path(config.run_dir))
    options.plan(config.plan)
    groups = config.parallel.tensor, config.parallel.context
    with lasting_output(), start(config.runtime, *groups) as runtime, take(config, runtime):
        stage = begin(config, runtime)
        choose_forms(stage.state.model, runtime, config.data.longest_seq_len, is_packed=stage.is_packed)
        curve = _measured(stage, options.plan(stage.plan))
        if runtime.is_main:
            report(curve, Path(config.run_dir) / PICTURE, config.plan.peak_lr, stage.state.stop_reason)


def _measured(stage: Beginning, plan: Plan) -> RateCurve:
    """Train with growing rates until the loss diverges; every rank must call it."""
    from babyllm.progress import ProgressLine
    from babyllm.training.loop import train
    from babyllm.training.state import Every, Watch
    from babyllm.training.watch import WatchConfig

    curve, progress = RateCurve(), ProgressLine("step", plan.n_steps) if stage.state.runtime.is_main else None

    def note(state: TrainState) -> None:
        state.take_metrics()
        if not state.memory.losses or state.memory.skips:
            return
        if curve.add(state.lr, state.memory.losses[-1]):
            state.stop_reason = DIVERGED
        if progress:
            progress.show(state.step, f"lr {state.lr:.2e} | loss {state.memory.losses[-1]:.4f}")

    def end(state: TrainState, row: int) -> bool:
        curve.has_diverged, state.stop_reason = True, DIVERGED
        return True

    # A loss that is not finite would end a run with an error; here it is the end of the range.
    watch = Watch(
        WatchConfig(spike=0, on_spike="rollback", rollbacks=1, skips=plan.n_steps + 1), lambda line: None, end
    )
    train(stage.state, stage.loss, plan, [Every(1, note, at_end=False)], watch)
    if progress:
        progress.end()
    return curve


def _require_no_run(directory: Path) -> None:
    if (directory / CONFIG).exists() or step_directories(directory):
        raise UserError(
            f"--run_dir={directory}: holds a run, which a test of learning rates must not touch; leave --run_dir out"
        )
