"""The training loop, which all stages share.

stream -> micro-batches of a step -> count units over all ranks -> forward, loss, backward each -> clip
       -> judge loss and gradient -> step, skip or go back -> every

Pretraining, fine-tuning and alignment pass in different streams, losses and starting weights.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from babyllm.data.batch import Batch
from babyllm.errors import UserError
from babyllm.objectives import Loss, Mean
from babyllm.parallel.distribute import loss_factor, replicate, synchronised
from babyllm.parallel.tensors import clip_norm
from babyllm.runtime import Runtime, seed_all
from babyllm.schedule import Plan, learning_rate
from babyllm.training.out_of_memory import agree, cut_to_fit, once, rehearse, votes, within_memory
from babyllm.training.state import STOP_SIGNAL, Every, TrainState, Watch
from babyllm.training.watch import ADVICE, Action, judge, remember


def train(state: TrainState, loss: Loss, plan: Plan, every: Sequence[Every] = (), watch: Watch | None = None) -> None:
    """Train until the plan's last step, a stop signal or `state.stop_reason`; `state` is changed in place.

    A further call continues a run that a stop signal, or an item of `every`, has ended.

    Args:
        state: a new run, or one loaded from a checkpoint.
        loss: function that returns the sums, by unit, of one micro-batch.
        plan: steps, learning rate, clipping and seed.
        every: actions between steps, run in this order. Saving comes before actions that may fail or take long. A stop
            signal postpones actions without `at_stop`; a resumed run does them first.
        watch: what to do about a step with an unusual loss or gradient; None reports spikes and never goes back.

    Raises:
        UserError: the loss is not a number, or too many steps were skipped in a row.
    """
    runtime, watch = state.runtime, watch or Watch()
    if state.has_trained:
        state.stop_reason = None
        runtime.forget_stop()
    state.has_trained = True
    state.model.train()
    model: nn.Module | None = None
    if state.pending:
        _between(state, plan, every)
    while state.step < plan.n_steps and state.stop_reason is None:
        began = time.perf_counter()
        batches = [batch.to(runtime.device) for batch in next(state.stream)]
        state.data_wait_s += time.perf_counter() - began
        if model is None:
            with runtime.patience():
                rehearse(state, batches, partial(_backward, state, state.model, loss, plan), watch.report)
                first = cut_to_fit(batches, state.cuts)[0]
                model = replicate(state.model, partial(_first_pass, loss, first, runtime), runtime)
                state.optimizer.zero_grad(set_to_none=True)
            began = time.perf_counter()
        units = _units(state, batches)
        run = partial(_backward, state, model, loss, plan, units=units)
        value, metrics = within_memory(state, batches, run, watch.report)
        action = _decide(state, plan, watch, value, batches[0].rows)
        if action == "go back":
            continue
        if action == "take":
            for of_micro_batch in metrics:
                state.add_metrics(of_micro_batch)
        state.tokens += int(units.get("input", units.get("token", 0)))
        state.step += 1
        state.busy_s += time.perf_counter() - began
        runtime.beat(state.step)
        _between(state, plan, every)


def _between(state: TrainState, plan: Plan, every: Sequence[Every]) -> None:
    """Run the actions due after a step; when one of them ends the run, those due at its end follow."""
    left = list(every)
    while True:
        is_stopped = state.stop_reason == STOP_SIGNAL
        is_last = state.step >= plan.n_steps or (state.stop_reason is not None and not is_stopped)
        due = [x for x in left if (x.steps > 0 and state.step % x.steps == 0) or (is_last and x.at_end)]
        now = next((x for x in left if x.at_stop), None) if is_stopped else next(iter(due), None)
        state.pending = any(x.is_owed or is_stopped for x in due if not x.at_stop and x is not now)
        if now is None:
            return
        with state.runtime.patience():
            is_cut_short = now.run(state) is False
        state.heed_stop_signal()
        if not (is_cut_short and state.stop_reason == STOP_SIGNAL):
            left = [x for x in left if x is not now]


def _units(state: TrainState, batches: list[Batch]) -> dict[str, float]:
    """The number of each unit in the global batch."""
    names = sorted(batches[0].units)
    totals = state.runtime.sum([float(sum(b.units[name] for b in batches)) for name in names])
    return {name: total / state.runtime.row_ranks for name, total in zip(names, totals, strict=True)}


def _first_pass(loss: Loss, batch: Batch, runtime: Runtime, model: nn.Module) -> Tensor:
    """The loss () of a micro-batch, of any scale."""
    with runtime.autocast():
        terms = loss(model, batch)
    return torch.stack(list(terms.sums.values())).sum()


def _backward(
    state: TrainState, model: nn.Module, loss: Loss, plan: Plan, batches: list[Batch], units: dict[str, float]
) -> tuple[Tensor, list[dict[str, Mean]]]:
    """Accumulate the gradients of this rank's micro-batches, given the units of the global batch.

    Returns:
        This rank's part of the loss (), and the metrics of each of its micro-batches.
    """
    runtime = state.runtime
    runtime.pace.begin(state.model)
    seed_all(plan.seed, state.step, runtime.rank // runtime.tensor)
    state.optimizer.zero_grad(set_to_none=True)
    value, metrics, factor = torch.zeros((), device=runtime.device), [], loss_factor(model, runtime)
    for i, (batch, sync) in enumerate(zip(batches, synchronised(model, len(batches)), strict=True), 1):
        with sync, once(state, model, len(batch)) if i == len(batches) else nullcontext():
            with runtime.autocast():
                terms = loss(model, batch)
            weighted = torch.stack([terms.sums[u] * (factor / max(units[u], 1.0)) for u in terms.sums])
            torch.autograd.backward(state.scaler.scale(weighted.sum()))
        value = value + weighted.detach().sum()
        metrics.append(terms.metrics)
        runtime.beat(state.step)
    return value, metrics


def _decide(state: TrainState, plan: Plan, watch: Watch, value: Tensor, rows: range) -> Action:
    """Judge the step, then take it, skip it or go back; returns the action.

    Every rank judges the same loss and gradient norm, so all ranks act alike.
    """
    runtime, scaler = state.runtime, state.scaler
    scaler.unscale_(state.optimizer)
    parameters = [p for p in state.model.parameters() if p.grad is not None]
    norm = clip_norm(parameters, plan.clip_norm or float("inf"))
    # The only values of a step that the host waits for; the stop flag and the cuts are summed with them.
    mine, state.grad_norm = torch.stack([value, norm.to(value)]).tolist()
    total, n_stops, *of_cuts = runtime.sum([mine, float(runtime.stop_requested), *votes(state)])
    agree(state, of_cuts, watch.report)
    if n_stops:
        state.stop_reason = STOP_SIGNAL
    mean, scale = (
        total / runtime.row_ranks / loss_factor(state.model, runtime),
        scaler.get_scale if scaler.is_enabled() else None,
    )
    action, why = judge(watch.config, state.memory, mean, state.grad_norm, scale)
    line = _described(state.step + 1, why, rows)
    state.lr = learning_rate(plan, state.step)
    for group in state.optimizer.param_groups:
        group["lr"] = state.lr * group.get("lr_scale", 1.0)
    if action == "take":
        scaler.step(state.optimizer)
        if state.average:
            state.average.update(state.step)
    scaler.update()  # after a skipped step too, since the next one must be able to unscale its gradient
    if action == "go back":
        if runtime.is_main:
            watch.report(line)
        with runtime.patience():
            is_back = watch.go_back(state, rows.stop)
        if is_back:
            return action
        action, why = judge(replace(watch.config, on_spike="skip"), state.memory, mean, state.grad_norm, scale)
        line = f"{_described(state.step + 1, why, rows)}; no step is saved to go back to"
    if action == "end":
        raise UserError(f"{line}; {ADVICE}")
    if why and runtime.is_main:
        watch.report(f"{line}, and is skipped" if action == "skip" else line)
    state.skipped += action == "skip"
    remember(watch.config, state.memory, mean, is_taken=action == "take")
    return action


def _described(step: int, why: str, rows: range) -> str:
    """The step, what is wrong with it, and the rows it read, as a message."""
    return f"step {step}: {why}" + (f"; it read rows {rows.start:,} to {rows.stop - 1:,}" if rows else "")
