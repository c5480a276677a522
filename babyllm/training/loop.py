"""The training loop: the only one.

stream -> micro-batches of a step -> count units over all ranks -> forward, loss, backward each -> clip -> step -> every

Pretraining, fine-tuning and alignment differ in the stream, the loss and the starting weights they hand in.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from babyllm.data.batch import Batch
from babyllm.objectives import Loss
from babyllm.runtime import seed_all
from babyllm.schedule import Plan, learning_rate
from babyllm.training.state import STOP_SIGNAL, Every, TrainState


def train(state: TrainState, loss: Loss, plan: Plan, every: Sequence[Every] = ()) -> None:
    """Train until the plan's last step, a stop signal or `state.stop_reason`; `state` is changed in place.

    Args:
        state: as made anew or as loaded from a checkpoint.
        loss: sums over units of a micro-batch.
        plan: steps, learning rate, clipping and seed.
        every: what is done between steps, in this order. A stop signal puts off what need not be done at one; whoever
            goes on from the state begins with that.
    """
    runtime = state.runtime
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
                model = _replicated(state, loss, batches[0])
            began = time.perf_counter()
        seed_all(plan.seed, state.step, runtime.rank)
        _step(state, model, loss, plan, batches)
        state.step += 1
        state.busy_s += time.perf_counter() - began
        runtime.beat(state.step)
        state.heed_stop_signal()
        _between(state, plan, every)


def _between(state: TrainState, plan: Plan, every: Sequence[Every]) -> None:
    """Do what is due behind the step just finished."""
    state.pending = False
    for item in every:
        is_stopped = state.stop_reason == STOP_SIGNAL
        is_last = state.step >= plan.n_steps or (state.stop_reason is not None and not is_stopped)
        is_due = (item.steps > 0 and state.step % item.steps == 0) or (is_last and item.at_end)
        if is_stopped and not item.at_stop:
            state.pending |= is_due
        elif is_due or is_stopped:
            with state.runtime.patience():
                item.run(state)
            state.heed_stop_signal()


def _replicated(state: TrainState, loss: Loss, batch: Batch) -> nn.Module:
    """The model as the loop calls it: itself, or wrapped so that gradients are averaged over ranks.

    DDP orders its gradient buckets anew behind its first backward pass, which changes the order of sums over three or
    more ranks. One pass whose gradients are thrown away lets it settle before the first step, so that a resumed run
    adds in the same order as one that never stopped.
    """
    runtime = state.runtime
    if runtime.compile:
        # Block by block: the same code for each, so it is compiled once and not once per layer.
        for block in state.model.layers:
            block.compile()
    if runtime.world_size == 1:
        return state.model
    ids = [runtime.device.index] if runtime.device.type == "cuda" else None
    model = DistributedDataParallel(state.model, device_ids=ids, gradient_as_bucket_view=True)
    with runtime.autocast():
        terms = loss(model, batch)
    torch.autograd.backward(list(terms.sums.values()))
    state.optimizer.zero_grad(set_to_none=True)
    return model


def _step(state: TrainState, model: nn.Module, loss: Loss, plan: Plan, batches: list[Batch]) -> None:
    """One update from the micro-batches of this rank."""
    runtime = state.runtime
    names = sorted(batches[0].units)
    totals = runtime.sum([float(sum(b.units[name] for b in batches)) for name in names])
    units = dict(zip(names, totals, strict=True))
    state.optimizer.zero_grad(set_to_none=True)
    for batch, sync in zip(batches, _synchronised(model, len(batches)), strict=True):
        with sync:
            with runtime.autocast():
                terms = loss(model, batch)
            weighted = [terms.sums[u] * (runtime.world_size / max(units[u], 1.0)) for u in terms.sums]
            torch.autograd.backward(state.scaler.scale(torch.stack(weighted).sum()))
        state.add_metrics(terms.metrics)
        runtime.beat(state.step)
    state.scaler.unscale_(state.optimizer)
    parameters = [p for p in state.model.parameters() if p.grad is not None]
    norm = nn.utils.clip_grad_norm_(parameters, plan.clip_norm or float("inf"))
    state.grad_norm, state.lr = float(norm), learning_rate(plan, state.step)
    for group in state.optimizer.param_groups:
        group["lr"] = state.lr * group.get("lr_scale", 1.0)
    # Gradients are the same on every rank by now, so all ranks skip or none does.
    is_finite = bool(norm.isfinite())
    if is_finite:
        state.scaler.step(state.optimizer)
    state.scaler.update()
    state.skipped += not is_finite
    state.tokens += int(units.get("input", units.get("token", 0)))


def _synchronised(model: nn.Module, n: int) -> Iterator[contextlib.AbstractContextManager[None]]:
    """For each of `n` micro-batches the context of its forward and backward pass: gradients are summed on the last."""
    for i in range(n):
        skips = i < n - 1 and isinstance(model, DistributedDataParallel)
        yield model.no_sync() if skips else contextlib.nullcontext()  # type: ignore[operator]
