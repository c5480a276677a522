"""The verdict on a step, from its loss and gradient norm; it is the same on every rank.

loss, gradient norm, memory of earlier steps -> judge -> take | skip | go back | end, and why
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Literal, NamedTuple

from babyllm.config.values import MAX_MEMBERS, AnyCount, Count, Limits, Rate

Action = Literal["take", "skip", "go back", "end"]
"""What is done with a step."""
LEAST_SCALE = 1.0
"""A smaller float16 scale shrinks gradients, so an overflow below it does not come from the scale."""
_ON_SPIKE: dict[str, Action] = {"tell": "take", "skip": "skip", "rollback": "go back"}
ADVICE = (
    "the last saved step is as it was; lower plan.peak_lr, compute in float32 (--runtime.dtype=float32) or fix the "
    "data, then start the same command again"
)


@dataclass(frozen=True)
class WatchConfig:
    """How steps are judged while a run trains, and what is done about a bad one.

    A loss that is not finite ends the run at once. In float16 the step is skipped instead, and gradients that overflow
    halve the scale.

    Attributes:
        spike: standard deviations above the mean of recent losses beyond which a loss is a spike; 0 looks for none.
        window: number of recent losses for mean and deviation; until the window is full, no loss is a spike.
        on_spike: action on a spike: `tell` only reports it, `skip` skips the step, `rollback` goes back to the last
            saved step and leaves out the rows read since. Before the first saved step, `rollback` skips.
        skips: skipped steps in a row that end the run. A float16 run begins with a scale of 2^16, which each overflow
            halves: after 17 skips it is below 1, and a smaller scale cannot help.
        rollbacks: number of rollbacks after which a further spike ends the run.
    """

    spike: Rate = 6.0
    window: Annotated[int, Limits(2, MAX_MEMBERS)] = 128
    on_spike: Literal["tell", "skip", "rollback"] = "tell"
    skips: Count = 20
    rollbacks: AnyCount = 5


@dataclass
class Memory:
    """The record of earlier steps by which the next is judged; it is saved with each checkpoint.

    Attributes:
        losses: global-batch losses of the last steps taken; at most `WatchConfig.window` of them.
        skips: number of steps skipped in a row up to now.
        rollbacks: number of times the run has gone back.
    """

    losses: list[float] = field(default_factory=list)
    skips: int = 0
    rollbacks: int = 0


class Verdict(NamedTuple):
    """What to do with a step, and why if it is unusual."""

    action: Action
    why: str = ""


def judge(
    config: WatchConfig, memory: Memory, loss: float, grad_norm: float, scale: Callable[[], float] | None
) -> Verdict:
    """The verdict on a step: take it, skip it, go back, or end the run.

    Args:
        config: criteria.
        memory: memory of earlier steps; not changed.
        loss: loss of the global batch.
        grad_norm: norm of its gradient, before clipping.
        scale: function that returns the gradient scale, called only when needed; None unless training in float16.
    """
    verdict = _judged(config, memory, loss, grad_norm, scale)
    if verdict.action == "go back" and memory.rollbacks >= config.rollbacks:
        return Verdict("end", f"{verdict.why}, and the run has gone back {memory.rollbacks} times already")
    if verdict.action == "skip" and memory.skips + 1 >= config.skips:
        return Verdict("end", f"{verdict.why}, and {memory.skips} steps before it were skipped as well")
    return verdict


def _judged(
    config: WatchConfig, memory: Memory, loss: float, grad_norm: float, scale: Callable[[], float] | None
) -> Verdict:
    if math.isfinite(loss) and math.isfinite(grad_norm):
        deviations = _deviations(config, memory.losses, loss)
        if not config.spike or deviations <= config.spike:
            return Verdict("take")
        why = f"the loss of {loss:.4f} lies {deviations:.1f} deviations above the last {config.window}"
        return Verdict(_ON_SPIKE[config.on_spike], why)
    why = f"the norm of the gradient is {grad_norm}" if math.isfinite(loss) else f"the loss is {loss}"
    if scale is not None:
        now = scale()
        why += f" at a scale of {now:g}" + (", and no smaller scale will help" if now < 2 * LEAST_SCALE else "")
        return Verdict("skip", why)
    if math.isfinite(loss):
        return Verdict("skip", why)
    return Verdict("go back" if config.on_spike == "rollback" else "end", why)


def _deviations(config: WatchConfig, losses: list[float], loss: float) -> float:
    """The standard deviations by which a loss exceeds the mean of recent ones; 0 until the window is full."""
    recent = losses[-config.window :]
    if len(recent) < config.window:
        return 0.0
    mean = math.fsum(recent) / len(recent)
    deviation = math.sqrt(math.fsum((x - mean) ** 2 for x in recent) / len(recent))
    return (loss - mean) / deviation if deviation else 0.0


def remember(config: WatchConfig, memory: Memory, loss: float, is_taken: bool) -> None:
    """Add a step to the memory, in place: its loss if it was taken, else one more skip."""
    memory.skips = 0 if is_taken else memory.skips + 1
    if is_taken:
        memory.losses = [*memory.losses, loss][-config.window :]
