"""Sharded models, by PyTorch's fully_shard (FSDP2): each rank holds a part of every parameter, gradient and moment.

model -> shard: each block, embedding, output layer, then the rest -> DTensors, divided along their first dimension

Parameters are gathered before the forward and the backward pass of their block. Gradients are summed over ranks, not
averaged. An embedding and an output layer that share their weight are of the rest, which stays gathered for a step.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from types import MethodType
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
from torch import Tensor, nn

from babyllm.model.interface import Model
from babyllm.model.linear import FrozenLinear, dense_weight
from babyllm.model.transformer import Block, Transformer
from babyllm.parallel.config import ParallelConfig
from babyllm.parallel.tensor_parallel import split
from babyllm.parallel.twin import keep_twin
from babyllm.runtime import Runtime
from babyllm.runtime.machine import return_freed_memory

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy

M = TypeVar("M", bound=Model)
Outputs = TypeVar("Outputs", Tensor, tuple[Tensor, ...], dict[str, Tensor])


def shard(model: M, runtime: Runtime, config: ParallelConfig) -> M:
    """Divide a model among ranks, in place; every rank must call it.

    Args:
        model: bare model, the same on every rank.
        runtime: device and ranks.
        config: what is divided, and what lies in the memory of the CPU.

    Returns:
        The model, whose parameters are DTensors.
    """
    from torch.distributed.fsdp import CPUOffloadPolicy, OffloadPolicy, fully_shard, register_fsdp_forward_method

    keep_twin(model, runtime, config.reading)
    mesh = _mesh(runtime, config)
    if config.tensor > 1:
        split(model, mesh["tensor"], runtime.device)
        mesh = mesh[tuple(name for name in mesh.mesh_dim_names or () if name != "tensor")]
    is_cuda = runtime.device.type == "cuda"
    policy = CPUOffloadPolicy(pin_memory=is_cuda) if config.offload == "all" else OffloadPolicy()
    # A number by itself and a matrix without rows cannot be divided, and ids are read whole; all are frozen and small.
    kept = {p for p in model.parameters() if p.dim() == 0 or not p.numel() or p.dtype is torch.int64}
    for parameter in kept:
        if not parameter.is_meta:
            parameter.data = parameter.data.to(runtime.device)
    options: dict[str, Any] = {"mesh": mesh, "offload_policy": policy, "ignored_params": kept}
    model.register_forward_hook(_without_views)
    for block in cast("list[Block]", model.layers):
        for part, types in _groups(block, runtime.dtype, is_split=config.tensor > 1):
            fully_shard(part, reshard_after_forward=config.shard != "zero2", mp_policy=types, **options)
    for embedding, output in _outer_layers(model) if config.tensor == 1 else ():
        divided = fully_shard(embedding, reshard_after_forward=config.shard != "zero2", **options)
        divided.set_unshard_in_backward(False)  # the gradient of rows does not depend on them
        if not kept.issuperset(output.parameters()):
            object.__setattr__(output, "through", MethodType(_through, output))
            fully_shard(output, reshard_after_forward=False, **options)
            register_fsdp_forward_method(output, "through")
    fully_shard(model, reshard_after_forward=False, **options)
    for part in model.modules():
        if is_sharded(part):
            divided = cast("FSDPModule", part)
            divided.set_force_sum_reduction_for_comms(True)  # gloo has no other reduction without a division
            divided.set_gradient_divide_factor(1.0)
    if any(parameter.is_meta for parameter in model.parameters()):
        device = torch.device("cpu") if config.offload == "all" else runtime.device
        apply: Callable[[Callable[[Tensor], Tensor]], object] = model._apply
        apply(lambda tensor: torch.empty_like(tensor, device=device) if tensor.is_meta else tensor)
    if not is_cuda:
        return_freed_memory()
    return model


def _groups(
    block: Block, dtype: torch.dtype, *, is_split: bool
) -> Iterator[tuple[nn.Module | list[nn.Module], MixedPrecisionPolicy]]:
    """The parts of a block that are gathered together, and the types in which they are.

    Where a step computes in 16 bits, matrices are rounded before they are gathered and not after, which halves what is
    sent. Their gradients are then those of 16-bit products too, and are summed in float32 as before. What is used in
    float32 is gathered in it: norms, which are left to the rest of the model, and the scales of nf4.
    """
    from torch.distributed.fsdp import MixedPrecisionPolicy

    as_held = MixedPrecisionPolicy(cast_forward_inputs=False)
    layers = [layer for layer in block.modules() if isinstance(layer, FrozenLinear)]
    if dtype is torch.float32 or is_split or any(layer.storage.startswith("nf4") for layer in layers):
        yield block, as_held
        return
    attention = block.self_attn
    if attention.has_norms:
        yield [attention.q_norm, attention.k_norm], as_held
    rounded = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
    yield attention, rounded
    yield block.mlp, rounded


def _outer_layers(model: Model) -> list[tuple[nn.Embedding, nn.Linear]]:
    """The embeddings and output layers that share no weight, which are gathered each by itself.

    Tied ones are left to the rest of the model, which stays gathered from the forward to the end of the backward pass.
    """
    pairs = [(part.embed_tokens, part.lm_head) for part in model.modules() if isinstance(part, Transformer)]
    return [pair for pair in pairs if set(pair[0].parameters()).isdisjoint(pair[1].parameters())]


def _through(layer: nn.Linear, function: Callable[..., Outputs], x: Tensor, *args: Any) -> Outputs:
    """`babyllm.model.linear.through` of a divided layer: its weight is gathered before, and its gradient summed."""
    return _own(function(x, dense_weight(layer), *args))


def _without_views(model: nn.Module, inputs: Any, outputs: Outputs) -> Outputs:
    return _own(outputs)


def _own(outputs: Outputs) -> Outputs:
    """The outputs of a pass as tensors of their own: FSDP watches them, and would miss a change made through a view."""
    if isinstance(outputs, dict):
        return {name: _own(output) for name, output in outputs.items()}
    if isinstance(outputs, tuple):
        return tuple(map(_own, outputs))
    return outputs.clone() if outputs._is_view() else outputs


def _mesh(runtime: Runtime, config: ParallelConfig) -> DeviceMesh:
    """The ranks as the model is divided among them: (copies, ranks of a copy, ranks of a split matrix), as needed."""
    from torch.distributed.device_mesh import init_device_mesh

    n = runtime.world_size // config.tensor
    size = {"none": 1, "hybrid": config.shard_ranks or runtime.local_world_size // config.tensor}.get(config.shard, n)
    dims = {"copy": n // size, "shard": size, "tensor": config.tensor}
    if config.shard in ("zero2", "zero3"):
        del dims["copy"]
    if config.tensor == 1:
        del dims["tensor"]
    return init_device_mesh(runtime.device.type, tuple(dims.values()), mesh_dim_names=tuple(dims))


def is_sharded(model: nn.Module) -> bool:
    """Whether a model, or a part of one, was divided by `shard`."""
    fsdp = sys.modules.get("torch.distributed.fsdp")  # importing it takes time, which most runs need not spend
    return fsdp is not None and isinstance(model, fsdp.FSDPModule)
