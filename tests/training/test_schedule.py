"""The learning rate as a function of the step."""

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from babyllm.errors import UserError
from babyllm.schedule import Plan, learning_rate, phase_steps


def rates(plan: Plan) -> list[float]:
    return [learning_rate(plan, step) for step in range(plan.n_steps)]


def by_phase(plan: Plan) -> dict[str, list[float]]:
    left, phases = rates(plan), {}
    for name, length in phase_steps(plan).items():
        phases[name], left = left[:length], left[length:]
    assert left == []
    return phases


phase = st.one_of(st.integers(0, 300), st.floats(0.0, 1.0))


@given(st.integers(1, 2000), phase, phase, phase, phase)
def test_phases_add_up_and_counts_are_kept(
    steps: int, warmup: float, cosine: float, stable: float, decay: float
) -> None:
    """The phases' lengths sum to the steps, numbers of steps are kept, and shares divide the rest in proportion."""
    given_lengths = {"warmup": warmup, "cosine": cosine, "stable": stable, "decay": decay}
    left = steps - sum(v for v in given_lengths.values() if isinstance(v, int))
    shares = sum(v for v in given_lengths.values() if isinstance(v, float))
    plan = Plan(steps=steps, **given_lengths)
    if left < 0 or (left > 0 and shares == 0):
        with pytest.raises(UserError, match=rf"plan\.steps is {steps}"):
            phase_steps(plan)
        return
    lengths = phase_steps(plan)
    assert sum(lengths.values()) == steps and min(lengths.values()) >= 0
    for name, value in given_lengths.items():
        if isinstance(value, int):
            assert lengths[name] == value
        elif shares:
            assert abs(lengths[name] - left * value / shares) < 1.01
    assert all(0 <= rate <= plan.peak_lr * (1 + 1e-12) for rate in rates(plan)[: 10 if steps > 100 else None])


def test_default_plan() -> None:
    """By default there are all four phases: up, a cosine to a tenth, a stable phase there, and down to 0."""
    plan = Plan(steps=1000, peak_lr=1e-3)
    assert phase_steps(plan) == {"warmup": 50, "cosine": 750, "stable": 100, "decay": 100}
    phases = by_phase(plan)
    assert phases["warmup"] == pytest.approx([1e-3 * (i + 1) / 50 for i in range(50)])
    assert phases["cosine"] == pytest.approx(
        [1e-4 + 9e-4 * (1 + math.cos(math.pi * (i + 1) / 750)) / 2 for i in range(750)]
    )
    assert phases["stable"] == pytest.approx([1e-4] * 100)
    assert phases["decay"] == pytest.approx([1e-4 * (1 - (i + 1) / 100) for i in range(100)])
    assert rates(plan)[-1] == 0.0


def test_warmup_and_cosine_alone() -> None:
    """Without stable and decay it is the usual schedule, which ends at min_lr."""
    plan = Plan(steps=100, warmup=10, cosine=90, stable=0, decay=0, peak_lr=2.0, min_lr=0.5)
    phases = by_phase(plan)
    assert phases["warmup"][-1] == max(rates(plan)) == 2.0
    assert phases["cosine"][44] == pytest.approx(1.25)
    assert rates(plan)[-1] == pytest.approx(0.5)
    assert phases["cosine"] == sorted(phases["cosine"], reverse=True)


def test_warmup_stable_decay() -> None:
    """An empty cosine with stable_lr at the peak is warmup-stable-decay."""
    plan = Plan(steps=100, warmup=10, cosine=0, stable=60, stable_lr=2.0, decay=30, peak_lr=2.0)
    phases = by_phase(plan)
    assert phases["stable"] == [2.0] * 60 and phases["cosine"] == []
    assert phases["decay"] == pytest.approx([2.0 * (1 - (i + 1) / 30) for i in range(30)])


def test_stable_rate_can_be_raised() -> None:
    """stable_lr may lie above min_lr; the decay then begins at it."""
    plan = Plan(steps=100, peak_lr=1.0, min_lr=0.1, stable_lr=0.3, stable=20, decay=10, final_lr=0.05)
    phases = by_phase(plan)
    assert phases["cosine"][-1] == pytest.approx(0.1)
    assert phases["stable"] == [0.3] * 20
    assert phases["decay"][0] == pytest.approx(0.3 - 0.25 / 10) and phases["decay"][-1] == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("shape", "half_way"), [("linear", 0.5), ("cosine", 0.5), ("1-sqrt", 1 - math.sqrt(0.5))], ids=lambda v: str(v)[:6]
)
def test_decay_shapes(shape: Any, half_way: float) -> None:
    """Every shape falls from the rate before it to final_lr; 1-sqrt falls fastest at first."""
    plan = Plan(steps=60, warmup=0, cosine=20, stable=0, decay=40, min_lr=1.0, peak_lr=3.0, decay_shape=shape)
    plan = replace(plan, final_lr=0.5)
    decay = by_phase(plan)["decay"]
    assert decay[19] == pytest.approx(0.5 + 0.5 * half_way)
    assert decay[-1] == pytest.approx(0.5)
    assert decay == sorted(decay, reverse=True) and decay[0] < 1.0


def test_cosine_cycle_ends_the_phase_before_the_cosine() -> None:
    """A half period 1.25 times the phase leaves the rate above min_lr where the phase ends; the decay begins there."""
    plan = Plan(steps=100, warmup=0, cosine=80, stable=0, decay=20, peak_lr=1.0, min_lr=0.0, cosine_cycle=1.25)
    phases = by_phase(plan)
    end = (1 + math.cos(math.pi / 1.25)) / 2
    assert phases["cosine"][-1] == pytest.approx(end) and end > 0.05
    assert phases["decay"][0] == pytest.approx(end * 19 / 20)


def test_neighbouring_phases_meet() -> None:
    """With default values the rate does not jump between phases: no change exceeds the largest one inside a phase."""
    plan = Plan(steps=1000, peak_lr=1e-3)
    values = rates(plan)
    steepest = max(1e-3 / 50, 9e-4 * math.pi / 2 / 750, 1e-4 / 100)
    assert max(abs(b - a) for a, b in pairwise(values)) <= steepest * (1 + 1e-9)
    without_warmup = replace(plan, warmup=0, cosine=1.0, stable=0, decay=0)
    assert rates(without_warmup)[0] == pytest.approx(1e-3, rel=1e-4)


@pytest.mark.parametrize("empty", ["warmup", "cosine", "stable", "decay"])
def test_any_phase_may_be_empty(empty: str) -> None:
    """An empty phase is skipped and the others take its steps."""
    plan = replace(Plan(steps=40, peak_lr=1e-3), **{empty: 0})
    assert phase_steps(plan)[empty] == 0 and sum(phase_steps(plan).values()) == 40
    assert all(math.isfinite(rate) and 0 <= rate <= 1e-3 * (1 + 1e-12) for rate in rates(plan))


def test_one_step() -> None:
    """A plan of one step has one rate."""
    plan = Plan(steps=1)
    assert sum(phase_steps(plan).values()) == 1
    assert 0 <= learning_rate(plan, 0) <= plan.peak_lr


def test_other_schedules() -> None:
    """After the warmup, constant stays, linear and exponential fall to min_lr, and restarts repeat a cosine."""
    plan = Plan(steps=110, warmup=10, peak_lr=1.0, min_lr=0.01, cycles=4)
    for name in ("constant", "linear", "exponential", "restarts"):
        values = rates(replace(plan, schedule=name))
        assert values[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert rates(replace(plan, schedule="constant"))[10:] == [1.0] * 100
    linear = rates(replace(plan, schedule="linear"))[10:]
    assert linear == pytest.approx([1.0 - 0.99 * (i + 1) / 100 for i in range(100)])
    exponential = rates(replace(plan, schedule="exponential"))[10:]
    assert exponential == pytest.approx([0.01 ** ((i + 1) / 100) for i in range(100)])
    restarts = rates(replace(plan, schedule="restarts"))[10:]
    assert restarts[0] == restarts[25] == restarts[50] == restarts[75] == 1.0
    assert restarts == pytest.approx([0.01 + 0.99 * (1 + math.cos(math.pi * (i % 25) / 25)) / 2 for i in range(100)])


def test_warmup_of_other_schedules_is_a_share_of_all_steps() -> None:
    """A warmup of 0.2 followed by a single phase is a fifth of the run."""
    values = rates(Plan(steps=100, schedule="constant", warmup=0.2, peak_lr=1.0))
    assert values[19] == 1.0 and values[18] == pytest.approx(19 / 20)


def test_epochs_become_steps() -> None:
    """Steps follow from epochs, rows and batch, rounded up; given steps are kept."""
    assert Plan(epochs=2).with_steps(rows=1000, global_batch=16).n_steps == 125
    assert Plan(epochs=1).with_steps(rows=17, global_batch=16).n_steps == 2
    assert Plan(epochs=0.001).with_steps(rows=10, global_batch=16).n_steps == 1
    assert Plan(steps=7, epochs=9).with_steps(rows=1000, global_batch=16).n_steps == 7


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, r"plan\.steps=0"),
        ({"steps": -3}, r"plan\.steps=-3"),
        ({"warmup": 101}, r"plan\.warmup, cosine.*101 steps, plan\.steps is 100"),
        ({"warmup": 10, "cosine": 10, "stable": 10, "decay": 10}, "add up to 40 steps"),
        ({"warmup": -5}, "plan.warmup"),
        ({"warmup": -0.1}, "plan.warmup"),
        ({"cosine_cycle": 0.0}, "plan.cosine_cycle"),
        ({"peak_lr": -1e-3}, r"plan\.peak_lr=-0\.001"),
        ({"peak_lr": math.nan}, r"plan\.peak_lr=nan"),
        ({"final_lr": math.inf}, r"plan\.final_lr=inf"),
        ({"clip_norm": -1.0}, r"plan\.clip_norm=-1"),
        ({"steps": None, "epochs": 0.0}, r"plan\.epochs=0"),
        ({"seed": 2**63}, r"plan\.seed=9223372036854775808"),
        ({"schedule": "restarts", "cycles": 0}, r"plan\.cycles=0"),
        ({"cosine_cycle": 0.5}, "plan.cosine_cycle"),
        ({"schedule": "exponential", "min_lr": 0.0}, r"plan\.min_lr=0"),
    ],
)
def test_impossible_plans_are_refused(changes: dict[str, Any], message: str) -> None:
    """An impossible plan is refused before the first step, with the key at fault."""
    with pytest.raises(UserError, match=message):
        replace(Plan(steps=100), **changes).with_steps(rows=1000, global_batch=10)
