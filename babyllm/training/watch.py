"""Whether a step is taken: a judgement of its loss and its gradient, made once a step, alike on every rank.

loss, gradient norm, what is remembered of the steps before -> judge -> take | skip | go back | end, and why
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
"""Below it a float16 scale makes gradients smaller than they are, so what overflows is not the scaled gradient."""
_ON_SPIKE: dict[str, Action] = {"tell": "take", "skip": "skip", "rollback": "go back"}
ADVICE = (
    "the last saved step is as it was; lower plan.peak_lr, compute in float32 (--runtime.dtype=float32) or mend the "
    "data, then start the same command again"
)


@dataclass(frozen=True)
class WatchConfig:
    """What is watched while a run trains, and what is done then.

    A loss that is not a number ends the run at once, but in float16, where the step is skipped. Gradients that overflow
    there halve the scale.

    Attributes:
        spike: deviations above the mean of the losses before it that make a loss a spike; 0 looks for none.
        window: losses that mean and deviation are taken from; before there are so many, none is a spike.
        on_spike: what is done: tell alone; skip the step; or rollback, which goes back to the last saved step, without
            the rows read since. Where none is saved yet, a spike is skipped.
        skips: skipped steps in a row that end the run. A float16 run begins with a scale of 2^16, which gradients that
            overflow halve: after 17 skips it is below 1, and no smaller one will help.
        rollbacks: how often a run goes back before a further spike ends it.
    """

    spike: Rate = 6.0
    window: Annotated[int, Limits(2, MAX_MEMBERS)] = 128
    on_spike: Literal["tell", "skip", "rollback"] = "tell"
    skips: Count = 20
    rollbacks: AnyCount = 5


@dataclass
class Memory:
    """What is remembered of the steps so far; it is saved with a step.

    Attributes:
        losses: of the last steps that were taken, at most a window of them, of the global batch.
        skips: steps skipped in a row up to now.
        rollbacks: how often the run has gone back.
    """

    losses: list[float] = field(default_factory=list)
    skips: int = 0
    rollbacks: int = 0


class Verdict(NamedTuple):
    """What is to be done with a step, and why if it is no ordinary one."""

    action: Action
    why: str = ""


def judge(
    config: WatchConfig, memory: Memory, loss: float, grad_norm: float, scale: Callable[[], float] | None
) -> Verdict:
    """Whether a step is taken.

    Args:
        config: what is looked for.
        memory: of the steps before.
        loss: of the global batch.
        grad_norm: of its gradient.
        scale: gives the gradient's scale; None unless training in float16. It is asked for only where it matters.
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
    """How many deviations a loss lies above the last ones; 0 where there are too few to tell."""
    recent = losses[-config.window :]
    if len(recent) < config.window:
        return 0.0
    mean = math.fsum(recent) / len(recent)
    deviation = math.sqrt(math.fsum((x - mean) ** 2 for x in recent) / len(recent))
    return (loss - mean) / deviation if deviation else 0.0


def remember(config: WatchConfig, memory: Memory, loss: float, is_taken: bool) -> None:
    """Add a step to what is remembered."""
    memory.skips = 0 if is_taken else memory.skips + 1
    if is_taken:
        memory.losses = [*memory.losses, loss][-config.window :]
