"""Steps that do not fit a device: tried again in smaller micro-batches, or ended with one line that says what may fit.

micro-batches of a step -> cut in 2^cuts parts -> run them -> out of memory -> one more cut -> run them all again

Only micro-batches that were chosen automatically are cut. The units of the step stay those of the global batch, so the
loss is the same up to rounding. A rank cuts by itself; all ranks take the smallest parts from the next step on. What
cannot be run again on one rank alone is a pass in which the ranks exchange data: the last pass of a step, and every
pass of a sharded model or of rows that ranks share. The number of cuts is saved with each step, since the parts decide
the order of sums and what dropout draws.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from babyllm.data.batch import Batch
from babyllm.errors import UserError
from babyllm.training.state import TrainState

R = TypeVar("R")
_MOST_CUTS = 16


def cut_to_fit(batches: Sequence[Batch], n_cuts: int) -> list[Batch]:
    """The same rows in micro-batches of at most the largest one's rows / 2^n_cuts, unless they may not be cut."""
    largest = max(map(len, batches))
    if any(batch.row_units is None for batch in batches):  # a resumed run whose micro-batch is given now
        return list(batches)
    return [part for batch in batches for part in batch.cut(-(-largest >> n_cuts) if n_cuts else largest)]


def votes(state: TrainState) -> list[float]:
    """What this rank adds to a sum over ranks, from which `agree` reads the cuts of all."""
    return [float(state.cuts == n) for n in range(_MOST_CUTS + 1)]


def agree(state: TrainState, summed: Sequence[float], report: Callable[[str], None]) -> None:
    """Cut micro-batches as the rank does that cuts most; `summed` are the `votes` of all ranks."""
    most = max(n for n, count in enumerate(summed) if count)
    if most > state.cuts:
        state.cuts = most
        if state.runtime.is_main:
            report(f"step {state.step + 1}: another rank ran out of device memory; micro-batches are cut in {2**most}")


def within_memory(
    state: TrainState,
    batches: Sequence[Batch],
    run: Callable[[list[Batch]], R],
    report: Callable[[str], None],
) -> R:
    """Run the micro-batches of a step, again in parts of half the size while they do not fit the device.

    Args:
        state: run in progress; its `cuts` grow.
        batches: micro-batches of this rank.
        run: function of the micro-batches, cut to fit; it must begin from scratch when called again.
        report: function that prints a line; called by rank 0.

    Raises:
        UserError: they do not fit, and may not or cannot be cut.
    """
    while True:
        parts = cut_to_fit(batches, state.cuts)
        n_rows = max(map(len, parts))
        try:
            return run(parts)
        except torch.OutOfMemoryError:
            if _is_divided(state) or n_rows == 1 or any(batch.row_units is None for batch in batches):
                raise UserError(_advice(state, n_rows)) from None
        # Past the handler nothing refers to the failed pass any more.
        state.cuts += 1
        state.optimizer.zero_grad(set_to_none=True)
        if state.runtime.device.type == "cuda":
            torch.cuda.empty_cache()
        if state.runtime.is_main:
            fewer = max(map(len, cut_to_fit(batches, state.cuts)))
            report(
                f"step {state.step + 1}: out of memory on {state.runtime.device} with micro-batches of {n_rows} "
                f"sequences; tried again with {fewer}, which --data.micro_batch={fewer} sets from the start"
            )


@contextmanager
def once(state: TrainState, model: nn.Module, n_rows: int) -> Iterator[None]:
    """A context for the last pass of a step, of `n_rows` rows, which a rank of several cannot run again by itself.

    Raises:
        UserError: the device's memory is full while the ranks sum their gradients.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        if isinstance(model, DistributedDataParallel):
            raise UserError(_advice(state, n_rows)) from None
        raise


def rehearse(
    state: TrainState, batches: Sequence[Batch], run: Callable[..., object], report: Callable[[str], None]
) -> None:
    """Find micro-batches that fit by a pass before the first step, whose gradients the caller discards.

    Among several ranks on GPUs the last pass of a step cannot be repeated, and it may be the only one. Every rank must
    call it; elsewhere it does nothing.

    Args:
        state: new or resumed run, whose model is not wrapped yet; its `cuts` may grow.
        batches: micro-batches of this rank.
        run: function of micro-batches and of their units by name, which leaves gradients.
        report: function that prints a line; called by rank 0.
    """
    runtime = state.runtime
    is_alone = runtime.world_size == 1 or runtime.device.type != "cuda"
    if is_alone or batches[0].row_units is None or _is_divided(state):
        return
    n = 0 if state.optimizer.state else sum(p.numel() for p in state.model.parameters() if p.requires_grad)
    moments = torch.empty(2 * n, device=runtime.device)  # AdamW's, float32, which the first step will make
    units = dict.fromkeys(batches[0].units, 1.0)
    within_memory(state, batches[:1], lambda parts: run(parts[:1], units=units), report)
    del moments
    agree(state, runtime.sum(votes(state)), report)


def _is_divided(state: TrainState) -> bool:
    """Whether ranks hold parts of the same weights or rows, and so exchange data in every pass."""
    runtime = state.runtime
    return runtime.context > 1 or (
        runtime.world_size > 1 and any(hasattr(p, "placements") for p in state.model.parameters())
    )


def _advice(state: TrainState, n_rows: int) -> str:
    """Why the run ends, and what may fit."""
    runtime = state.runtime
    what = f"step {state.step + 1}: {n_rows} sequences do not fit the memory of {runtime.device}"
    if n_rows == 1:
        what = f"step {state.step + 1}: a single sequence does not fit the memory of {runtime.device}"
        return f"{what}; give --model.activation_checkpointing=true, a smaller --data.seq_len or --parallel.shard=zero3"
    half = n_rows // next(d for d in range(2, n_rows + 1) if n_rows % d == 0)
    return f"{what}; give --data.micro_batch={half}, or --model.activation_checkpointing=selective"
