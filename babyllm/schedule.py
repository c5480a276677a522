"""The learning rate: a pure function of the plan and the step.

It has four phases, any of which may be empty: warmup, cosine, stable, decay. Without stable and decay it is the usual
warmup and cosine. With an empty cosine and `stable_lr` equal to `peak_lr` it is warmup-stable-decay (Hu et al. 2024,
section 4).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Annotated, Literal

from babyllm.config.values import AnyCount, Count, Limits, Positive, Rate, Seed, Share, check
from babyllm.errors import UserError

PHASES = ("warmup", "cosine", "stable", "decay")


@dataclass(frozen=True)
class Plan:
    """The length of a training run and its learning-rate schedule.

    A phase is a number of steps (an integer) or a share of all steps (a number with a decimal point). Numbers of steps
    are kept as given; phases given as shares divide the remaining steps in proportion.

    Attributes:
        steps: total number of optimizer steps; null computes it from `epochs`.
        epochs: number of passes over the data; used when `steps` is null.
        schedule: curve of the learning rate: "phases" for the four phases, or "constant", "linear", "exponential" or
            "restarts" after the warmup.
        peak_lr: highest learning rate.
        min_lr: learning rate at the end of the cosine; null takes a tenth of `peak_lr`.
        warmup: phase from 0 to `peak_lr`, linear.
        cosine: phase from `peak_lr` to `min_lr`, half a cosine.
        cosine_cycle: half period of the cosine over the phase's length; above 1 the phase ends before the cosine does.
        stable: phase at `stable_lr`.
        stable_lr: learning rate of the stable phase; null takes `min_lr`.
        decay: phase from the learning rate reached before it to `final_lr`.
        decay_shape: curve of the decay: "linear", "cosine" or "1-sqrt" (Haegele et al. 2024, equation 2).
        final_lr: learning rate at the end of the decay.
        cycles: number of cosines of the schedule "restarts" (Loshchilov and Hutter 2017, equation 5).
        clip_norm: largest gradient norm; larger gradients are scaled down to it. 0 does not clip.
        seed: seed of the initial weights and of dropout.
    """

    steps: Count | None = None
    epochs: Positive = 1.0
    schedule: Literal["phases", "constant", "linear", "exponential", "restarts"] = "phases"
    peak_lr: Rate = 3e-3
    min_lr: Rate | None = None
    warmup: AnyCount | Share = 0.05
    cosine: AnyCount | Share = 0.75
    cosine_cycle: Annotated[float, Limits(1)] = 1.0
    stable: AnyCount | Share = 0.10
    stable_lr: Rate | None = None
    decay: AnyCount | Share = 0.10
    decay_shape: Literal["linear", "cosine", "1-sqrt"] = "linear"
    final_lr: Rate = 0.0
    cycles: Count = 4
    clip_norm: Rate = 1.0
    seed: Seed = 1

    def with_steps(self, rows: int, global_batch: int) -> Plan:
        """The same plan with `steps` as a number, computed from `epochs` if it is None.

        Args:
            rows: rows of one epoch.
            global_batch: rows of one optimizer step over all ranks.

        Raises:
            UserError: a value is out of range, or the phases do not fit the steps.
        """
        self.check()
        if self.steps is not None:
            return self
        plan = replace(self, steps=max(1, math.ceil(self.epochs * rows / global_batch)))
        plan.check()
        return plan

    def check(self) -> None:
        """Refuse an impossible plan, as far as it can be checked without the data.

        Raises:
            UserError: a value is out of range, or the phases do not fit the steps; the message names it.
        """
        check(self, "plan.")
        if self.schedule == "exponential" and not self._floor > 0:
            raise UserError(f"plan.min_lr={self._floor}: the exponential schedule needs one above 0")
        if self.steps is not None:
            learning_rate(self, self.n_steps - 1)

    @property
    def _floor(self) -> float:
        return self.peak_lr / 10 if self.min_lr is None else self.min_lr

    @property
    def n_steps(self) -> int:
        """`steps` as a number.

        Raises:
            UserError: it is None, to be computed by `with_steps`.
        """
        if self.steps is None or self.steps < 1:
            raise UserError(f"plan.steps={self.steps}: must be at least 1")
        return self.steps


def phase_steps(plan: Plan) -> dict[str, int]:
    """The length in steps of each phase of the schedule "phases", by name; the lengths add up to `plan.steps`.

    Raises:
        UserError: the phases given as numbers of steps do not fit `plan.steps`.
    """
    given = {name: getattr(plan, name) for name in PHASES}
    counted = sum(v for v in given.values() if isinstance(v, int))
    shares = sum(v for v in given.values() if isinstance(v, float))
    left = plan.n_steps - counted
    if left < 0 or (left > 0 and shares == 0) or min(given.values()) < 0:
        raise UserError(
            f"plan.warmup, cosine, stable and decay add up to {counted} steps, plan.steps is {plan.n_steps}; "
            "make them equal, or give one phase as a share such as 0.75"
        )
    lengths: dict[str, int] = {}
    reached = 0.0
    for name, value in given.items():
        if isinstance(value, int):
            lengths[name] = value
        else:
            before = round(reached)
            reached += left * value / shares if shares else 0.0
            lengths[name] = round(reached) - before
    return lengths


def learning_rate(plan: Plan, step: int) -> float:
    """The learning rate of one update.

    Args:
        plan: plan whose `steps` is not None.
        step: number of finished updates: 0 for the first update, `plan.steps` - 1 for the last.

    Raises:
        UserError: the phases do not fit the steps.
    """
    if plan.schedule != "phases":
        rest = 1.0 - plan.warmup if isinstance(plan.warmup, float) else 1.0
        plan = replace(plan, cosine=rest, stable=0, decay=0)
    lengths = phase_steps(plan)
    if step < lengths["warmup"]:
        return plan.peak_lr * (step + 1) / lengths["warmup"]
    step -= lengths["warmup"]
    floor = plan._floor
    if plan.schedule != "phases":
        return _after_warmup(plan, floor, step, plan.n_steps - lengths["warmup"])
    rate = plan.peak_lr
    if lengths["cosine"]:
        done = min(step + 1, lengths["cosine"]) / lengths["cosine"] / plan.cosine_cycle
        rate = floor + (plan.peak_lr - floor) * (1 + math.cos(math.pi * done)) / 2
        if step < lengths["cosine"]:
            return rate
    step -= lengths["cosine"]
    if lengths["stable"]:
        rate = floor if plan.stable_lr is None else plan.stable_lr
        if step < lengths["stable"]:
            return rate
    step -= lengths["stable"]
    return _decayed(plan, rate, min(1.0, (step + 1) / max(1, lengths["decay"])))


def _decayed(plan: Plan, start: float, done: float) -> float:
    left = {"linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2, "1-sqrt": 1 - math.sqrt(done)}
    return plan.final_lr + (start - plan.final_lr) * left[plan.decay_shape]


def _after_warmup(plan: Plan, floor: float, step: int, length: int) -> float:
    done = min(1.0, (step + 1) / max(1, length))
    if plan.schedule == "constant":
        return plan.peak_lr
    if plan.schedule == "linear":
        return plan.peak_lr + (floor - plan.peak_lr) * done
    if plan.schedule == "exponential":
        return plan.peak_lr * float((floor / plan.peak_lr) ** done)
    cycle = step / max(1, length) * plan.cycles % 1.0
    return floor + (plan.peak_lr - floor) * (1 + math.cos(math.pi * cycle)) / 2
