"""Blocks split within their matrices, among ranks that read the same rows (Shoeybi et al. 2019, section 3).

x, the same on all of them -> q, k, v of a rank's heads -> attention -> o    -> summed over the ranks
                           -> gate, up of a rank's widths -> SwiGLU -> down -> summed over the ranks

The matrices that read x are split by their outputs, those that write into the residual stream by their inputs. All
other parameters are whole on each rank. All are DTensors; while a module computes it has this rank's plain parts in
their places, so that the model's own code runs on them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from babyllm.model.interface import Model
from babyllm.model.transformer import Block
from babyllm.parallel.tensors import is_divided

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from torch.distributed.device_mesh import DeviceMesh

# The dimension along which a parameter is split, by its own name, in both kinds of layers; the others are whole.
_BY_OUTPUTS = {"weight": 0, "bias": 0, "scales": 0, "lora_B": 0}
_BY_INPUTS = {"weight": 1, "lora_A": 1}


def split(model: Model, mesh: DeviceMesh, device: torch.device) -> None:
    """Split the blocks of a model, in place; every rank must call it.

    Args:
        model: bare model, the same on every rank; its numbers of heads and its hidden widths divide among the ranks.
        mesh: ranks that read the same rows, in one dimension.
        device: device of this rank.
    """
    blocks, group, others = [cast(Block, block) for block in model.layers], mesh.get_group(), set(model.modules())
    dims: dict[Tensor, int] = {}
    for block in blocks:
        attention, mlp = block.self_attn, block.mlp
        for layer in (attention.q_proj, attention.k_proj, attention.v_proj, mlp.gate_proj, mlp.up_proj):
            dims |= _dims(layer, _BY_OUTPUTS)
        for layer in (attention.o_proj, mlp.down_proj):
            dims |= _dims(layer, _BY_INPUTS)
    _divide(model, mesh, dims, device)
    for block in blocks:
        block.self_attn.n_heads //= mesh.size()
        block.self_attn.n_kv_heads //= mesh.size()
        for part, norm in ((block.self_attn, block.input_layernorm), (block.mlp, block.post_attention_layernorm)):
            inside = [*part.modules(), norm]
            part.register_forward_pre_hook(partial(_begin_part, inside, group))
            part.register_forward_hook(partial(_end_part, inside, group), always_call=True)
            others.difference_update(inside)
    outside = list(others)
    model.register_forward_pre_hook(lambda module, inputs: _show(outside))
    model.register_forward_hook(lambda module, inputs, outputs: _hide(outside), always_call=True)


def _dims(layer: nn.Module, kinds: dict[str, int]) -> dict[Tensor, int]:
    return {p: kinds[name] for name, p in layer.named_parameters(recurse=False) if name in kinds}


def _divide(model: nn.Module, mesh: DeviceMesh, dims: dict[Tensor, int], device: torch.device) -> None:
    """Replace each parameter by a DTensor of this rank's part of it."""
    from torch.distributed.tensor import DTensor, Replicate, Shard

    made: dict[Tensor, nn.Parameter] = {}
    for p in model.parameters():
        if not p.dim() or not p.numel():  # which `shard` leaves as they are
            continue
        part, dim = p.detach(), dims.get(p)
        if dim is not None:
            part = part.chunk(mesh.size(), dim)[mesh.get_local_rank()].clone(memory_format=torch.contiguous_format)
        placement = Replicate() if dim is None else Shard(dim)
        part = part if part.is_meta else part.to(device)
        whole = DTensor.from_local(part, mesh, [placement], run_check=False, shape=p.shape, stride=p.stride())
        made[p] = nn.Parameter(whole, requires_grad=p.requires_grad)
    for module in model.modules():
        for name, p in list(module.named_parameters(recurse=False)):
            if p in made:
                setattr(module, name, made[p])


# ---- while a module computes


def _begin_part(modules: Sequence[nn.Module], group: ProcessGroup, module: nn.Module, inputs: tuple[Any, ...]) -> Any:
    """Before attention or an MLP, whose first input is x: this rank computes a part of what is made of x."""
    _show(modules, group)
    return _entering(inputs[0], group), *inputs[1:]


def _end_part(
    modules: Sequence[nn.Module], group: ProcessGroup, module: nn.Module, inputs: Any, output: Tensor | None
) -> Tensor | None:
    """After it, or after an error in it, when there is no output."""
    _hide(modules)
    return None if output is None else _leaving(output, group)


def _show(modules: Sequence[nn.Module], group: ProcessGroup | None = None) -> None:
    """Let modules have plain tensors under the names of their parameters.

    Args:
        modules: modules, whose parameters are DTensors.
        group: ranks of which each computes with a part of what is whole; None where all compute the same.
    """
    for module in modules:
        for name, p in module.named_parameters(recurse=False):
            if is_divided(p):
                mine: Tensor = p.to_local()
                is_used_in_part = group is not None and p.requires_grad and p.placements[0].is_replicate()
                # An attribute of the object itself is found before the parameter, which stays what it is.
                module.__dict__[name] = _entering(mine, group) if is_used_in_part else mine


def _hide(modules: Sequence[nn.Module]) -> None:
    for module in modules:
        for name, _ in module.named_parameters(recurse=False):
            module.__dict__.pop(name, None)


def _entering(x: Tensor, group: ProcessGroup | None) -> Tensor:
    """`x`, the same on all ranks of a group, of which each computes a part of the results: gradients are summed."""
    entered: Tensor = _Entering.apply(x, group)  # type: ignore[no-untyped-call]
    return entered


def _leaving(y: Tensor, group: ProcessGroup) -> Tensor:
    """The sum of the ranks' `y`, from which all ranks compute the same: each has the whole gradient."""
    left: Tensor = _Leaving.apply(y, group)  # type: ignore[no-untyped-call]
    return left


class _Entering(torch.autograd.Function):
    """The operator f of Shoeybi et al. 2019, figure 3: (...) -> (...)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: ProcessGroup) -> Tensor:
        ctx.group = group
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return _summed(grads[0], ctx.group), None


class _Leaving(torch.autograd.Function):
    """The operator g of the same figure, the conjugate of f: (...) -> (...)."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, group: ProcessGroup) -> Tensor:
        return _summed(y, group)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None


def _summed(x: Tensor, group: ProcessGroup) -> Tensor:
    total = x.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total, group=group)
    return total
