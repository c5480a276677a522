"""Distribution of a model over ranks: prepared before its optimizer is made, wrapped before the first step.

model -> prepare (device, shards) -> optimizer -> replicate (compile, DDP) -> the loop
                 readable -> a plain model for evaluation, generation and rollouts, filled by `whole`
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from babyllm.model.interface import Model
from babyllm.model.transformer import Transformer
from babyllm.parallel.config import ParallelConfig
from babyllm.parallel.context import share_rows
from babyllm.parallel.refusals import require_possible
from babyllm.parallel.sharding import is_sharded, shard
from babyllm.runtime import Runtime

if TYPE_CHECKING:
    from torch.distributed.fsdp import FSDPModule

M = TypeVar("M", bound=Model)


def prepare(model: M, runtime: Runtime, config: ParallelConfig | None = None) -> M:
    """Return the model on its device, divided among ranks, with the parameters that its optimizer must be made from.

    Call it before the optimizer is made: sharding replaces parameters, and an optimizer would keep the old ones.

    Args:
        model: bare model, the same on every rank; it may be on "meta", to be filled afterwards.
        runtime: device and ranks.
        config: how to divide it; None leaves it whole.

    Raises:
        UserError: the model cannot be divided so here.
    """
    config = config or ParallelConfig()
    require_possible(config, runtime, model)
    is_empty = any(parameter.is_meta for parameter in model.parameters())
    if divides(config, runtime):
        model = shard(model, runtime, config)
    elif not is_empty:
        model = model.to(runtime.device)
    if config.context > 1:
        assert isinstance(model, Transformer)  # as `require_possible` has seen to
        share_rows(model, runtime)
    return model


def divides(config: ParallelConfig, runtime: Runtime) -> bool:
    """Whether `prepare` divides a model among ranks."""
    return (config.shard != "none" or config.tensor > 1) and runtime.world_size > 1


def replicate(model: Model, first_pass: Callable[[nn.Module], Tensor], runtime: Runtime) -> nn.Module:
    """Return the model as the loop calls it: itself, or wrapped so that gradients are averaged over ranks.

    DDP reorders its gradient buckets after its first backward pass, which changes the order of sums over three or more
    ranks. One pass before the first step settles the order, so a resumed run sums in the same order as a run that never
    stopped. The caller discards the gradients of that pass.

    Args:
        model: model that `prepare` returned; its blocks are compiled in place if `runtime.compile` is set.
        first_pass: function that returns the loss () of this rank's first micro-batch.
        runtime: device, ranks and number type.
    """
    if runtime.compile:
        # Block by block: all blocks share their code, so it is compiled once, not once per layer.
        for block in model.layers:
            block.compile(backend=runtime.compile_backend)
    if runtime.world_size == 1 or is_sharded(model):
        return model
    ids = [runtime.device.index] if runtime.device.type == "cuda" else None
    wrapped = DistributedDataParallel(model, device_ids=ids, gradient_as_bucket_view=True)
    torch.autograd.backward(first_pass(wrapped))
    return wrapped


def synchronised(model: nn.Module, n: int) -> Iterator[contextlib.AbstractContextManager[None]]:
    """Yield a context for each of `n` micro-batches; copies of gradients are summed over ranks only in the last.

    Shards of gradients are summed in each, since whole gradients, which would be kept meanwhile, may not fit.
    """
    for i in range(n):
        is_last = i == n - 1
        if is_sharded(model):
            cast("FSDPModule", model).set_requires_all_reduce(is_last)
        skips = not is_last and isinstance(model, DistributedDataParallel)
        yield model.no_sync() if skips else contextlib.nullcontext()  # type: ignore[operator]


def loss_factor(model: nn.Module, runtime: Runtime) -> float:
    """The factor of a rank's loss that makes the gradients' sum over ranks, as the wrapper takes it, their sum.

    DDP divides the sum by the number of ranks; shards are summed alone.
    """
    return 1.0 if is_sharded(model) else float(runtime.world_size)
