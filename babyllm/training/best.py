"""The best step of a run so far, by a result on held-out data, and when to stop without a better one."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

from babyllm.errors import UserError
from babyllm.training.recording.better import is_better, is_lower_better
from babyllm.training.state import TrainState

LOSS = "all/loss"
"""The result by which a step is best unless a run names another one."""


def in_words(name: str) -> str:
    """The name of a result for messages."""
    return "held-out loss" if name == LOSS else name


def require_known(name: str, results: Collection[str]) -> None:
    """Refuse a name that is not that of a result.

    Raises:
        UserError: there is no such result; the message lists those there are.
    """
    if name not in results:
        known = ", ".join(sorted(each for each in results if not each.endswith("_stderr")))
        raise UserError(f"--best={name}: there is no such result on held-out data; choose among {known}")


def judge(state: TrainState, result: Mapping[str, float]) -> None:
    """Note whether this step is the best so far, by `state.best_by`; without any result nothing changes."""
    if not result:
        return
    if state.best_by != LOSS:
        require_known(state.best_by, result)
    value = result.get(state.best_by)
    if value is None:
        return
    if math.isfinite(value) and (state.best is None or is_better(state.best_by, value, state.best[0])):
        state.best, state.bad_evaluations = (value, state.step), 0
    else:
        state.bad_evaluations += 1


def judge_by(state: TrainState, name: str) -> str:
    """Judge steps by another result from now on; returns a remark if steps were judged by another one before."""
    if state.best_by == name:
        return ""
    before, state.best_by = state.best_by, name
    if state.best is None:
        return ""
    state.best, state.bad_evaluations = None, 0
    return f"steps were judged by {before} before; the best by {name} is looked for from here on"


def out_of_patience(state: TrainState, patience: int) -> str | None:
    """The reason to stop: `patience` evaluations in a row without a better one; None to go on, or if it is 0."""
    if not patience or not state.best or state.bad_evaluations < patience:
        return None
    better = "lower" if is_lower_better(state.best_by) else "higher"
    return (
        f"no {better} {in_words(state.best_by)} in {state.bad_evaluations} evaluations, the best was at step "
        f"{state.best[1]}; raise --early_stop to go on"
    )
