"""Tensors that ranks hold in parts (DTensor), beside those that each rank has whole.

A DTensor acts as the whole tensor in PyTorch's operations; what is done here touches this rank's part, or gathers.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeGuard

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


def is_divided(tensor: Tensor) -> TypeGuard[DTensor]:
    """Whether this is a DTensor."""
    module = sys.modules.get("torch.distributed.tensor")  # importing it takes time, which most runs need not spend
    return module is not None and isinstance(tensor, module.DTensor)


def local(tensor: Tensor) -> Tensor:
    """This rank's part of a tensor, which shares its memory; a tensor that is not divided is its own part."""
    return tensor.to_local() if is_divided(tensor) else tensor


def whole_tensor(tensor: Tensor) -> Tensor:
    """All of a tensor, on every rank; every rank must call it."""
    return tensor.full_tensor() if is_divided(tensor) else tensor


def whole_tensors(tensors: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """All of several tensors, on every rank and on a device; every rank must call it, for the same tensors.

    Those that are divided by rows alone travel in one message.
    """
    found: list[Tensor | None] = [None if _is_by_rows(x) else whole_tensor(x).to(device) for x in tensors]
    joint = [x for x in tensors if _is_by_rows(x)]
    gathered = iter(_gathered_rows(joint, device) if joint else ())
    return [next(gathered) if x is None else x for x in found]


def _is_by_rows(tensor: Tensor) -> TypeGuard[DTensor]:
    """Whether ranks hold blocks of adjacent rows, as `fully_shard` divides, and no further division."""
    if not is_divided(tensor):
        return False
    *copies, last = tensor.placements
    return last.is_shard(0) and all(placement.is_replicate() for placement in copies) and tensor.is_contiguous()


def _gathered_rows(tensors: Sequence[DTensor], device: torch.device) -> Iterator[Tensor]:
    """Whole tensors, from one message of bytes in which each rank's rows are padded to the longest block."""
    import torch.distributed as dist

    group = tensors[0].device_mesh.get_group(tensors[0].device_mesh.ndim - 1)
    n = dist.get_world_size(group)
    sizes = []
    flat = []
    for tensor in tensors:
        mine = tensor.to_local().contiguous().view(-1).view(torch.uint8)
        n_rows = -(-tensor.shape[0] // n)
        sizes.append(n_rows * math.prod(tensor.shape[1:]) * tensor.itemsize)
        flat += [mine, mine.new_zeros(sizes[-1] - len(mine))]
    sent = torch.cat(flat).to(device)
    received = sent.new_empty(n, len(sent))
    dist.all_gather(list(received.unbind()), sent, group)
    for tensor, part in zip(tensors, torch.split(received, sizes, dim=1), strict=True):
        yield part.reshape(-1)[: tensor.numel() * tensor.itemsize].view(tensor.dtype).view(tensor.shape)


class Place(NamedTuple):
    """Where a rank's part lies in the whole tensor.

    Attributes:
        offset: index of the part's first element along each dimension.
        shape: shape of the part.
        is_first_copy: whether no rank before this one holds the same part.
    """

    offset: tuple[int, ...]
    shape: tuple[int, ...]
    is_first_copy: bool


def place_of(tensor: Tensor) -> Place:
    """The place of this rank's part; a tensor that is not divided is whole, and rank 0 has its first copy."""
    import torch.distributed as dist

    if not is_divided(tensor):
        is_first = not dist.is_initialized() or dist.get_rank() == 0
        return Place((0,) * tensor.dim(), tuple(tensor.shape), is_first)
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    shape, offset = compute_local_shape_and_global_offset(tensor.shape, tensor.device_mesh, tensor.placements)
    coordinate: Sequence[int] = tensor.device_mesh.get_coordinate() or ()
    of_copies = [at for at, kind in zip(coordinate, tensor.placements, strict=True) if kind.is_replicate()]
    is_first = not any(of_copies)
    return Place(tuple(offset), tuple(shape), is_first)


def part_of(whole: Tensor, place: Place) -> Tensor:
    """The part of a whole tensor that lies at `place`, as a view."""
    for dim, (begin, length) in enumerate(zip(place.offset, place.shape, strict=True)):
        whole = whole.narrow(dim, min(begin, whole.shape[dim]), length)
    return whole


def like(tensor: Tensor, part: Tensor) -> Tensor:
    """`part` as this rank's part of a tensor that is divided as `tensor` is; as it is where that is not divided."""
    if not is_divided(tensor) or not part.dim():
        return part
    found = torch.empty_like(tensor.detach(), dtype=part.dtype)
    local(found).copy_(part)
    return found


def clip_norm(parameters: Sequence[nn.Parameter], limit: float) -> Tensor:
    """Scale the gradients so that their norm over all parameters is at most `limit`, in place.

    Returns:
        The norm before, (), the same on every rank.
    """
    if not any(is_divided(p) for p in parameters):
        return nn.utils.clip_grad_norm_(parameters, limit)
    import torch.distributed as dist

    gradients = [p.grad for p in parameters if p.grad is not None]
    parts = [local(gradient) for gradient in gradients]
    copies = [_n_copies(gradient) for gradient in gradients]
    squares = torch.stack([part.float().square().sum() / n for part, n in zip(parts, copies, strict=True)]).sum()
    device = squares.device
    dist.all_reduce(squares)
    norm = squares.sqrt().to(device)
    torch._foreach_mul_(parts, (limit / (norm + 1e-6)).clamp(max=1.0).to(parts[0].device))
    return norm


def _n_copies(tensor: Tensor) -> int:
    """How many ranks hold each element."""
    import torch.distributed as dist

    if not is_divided(tensor):
        return dist.get_world_size()
    n = dist.get_world_size()
    for size, placement in zip(tensor.device_mesh.shape, tensor.placements, strict=True):
        n //= 1 if placement.is_replicate() else size
    return n


def by_owners(matrix: Tensor, parts: Sequence[Tensor], function: Callable[[Tensor], Tensor]) -> list[Tensor]:
    """This rank's parts of what `function` makes of whole matrices; each matrix is gathered by one rank alone.

    Args:
        matrix: a DTensor that is divided as the matrices are.
        parts: this rank's part of each matrix, all of one shape.
        function: function of whole matrices (N, R, C) that returns matrices of that shape.
    """
    assert is_divided(matrix)
    by_dimension = zip(matrix.device_mesh.get_all_groups(), matrix.placements, strict=True)
    groups = [group for group, placement in by_dimension if not placement.is_replicate()]
    if len(groups) != 1 or not any(p.is_shard(0) for p in matrix.placements):
        return _by_all(matrix, parts, function)
    import torch.distributed as dist

    n_ranks, rank = dist.get_world_size(groups[0]), dist.get_rank(groups[0])
    rows = [len(part) for part in torch.empty(matrix.shape[0], device="meta").chunk(n_ranks)]
    rows += [0] * (n_ranks - len(rows))
    width = matrix.shape[1]
    n_owned = [len(range(owner, len(parts), n_ranks)) for owner in range(n_ranks)]
    mine = n_owned[rank]
    # To each owner the parts of its matrices, from each rank the parts of mine.
    sent = torch.cat([part for owner in range(n_ranks) for part in parts[owner::n_ranks]])
    sent = sent.to(matrix.device_mesh.device_type)
    of_rank, of_owner = [mine * n for n in rows], [n * rows[rank] for n in n_owned]
    received = sent.new_empty(mine * sum(rows), width)
    dist.all_to_all_single(received, sent.contiguous(), of_rank, of_owner, groups[0])
    if mine:
        pieces = torch.split(received, of_rank)
        whole = torch.cat([p.view(mine, n, width) for p, n in zip(pieces, rows, strict=True)], dim=1)
        made = torch.split(function(whole).to(sent.dtype), rows, dim=1)
        received = torch.cat([piece.reshape(-1, width) for piece in made])
    back = torch.empty_like(sent)
    dist.all_to_all_single(back, received, of_owner, of_rank, groups[0])
    back = back.to(parts[0].device)
    found = iter(torch.split(back, rows[rank])) if rows[rank] else iter([back] * len(parts))
    by_owner = {i: next(found) for owner in range(n_ranks) for i in range(owner, len(parts), n_ranks)}
    return [by_owner[i] for i in range(len(parts))]


def _by_all(matrix: Tensor, parts: Sequence[Tensor], function: Callable[[Tensor], Tensor]) -> list[Tensor]:
    """As `by_owners`, for matrices that are divided in two dimensions: every rank gathers every matrix."""
    place = place_of(matrix)
    return [part_of(function(whole_tensor(like(matrix, part))[None])[0].to(part.dtype), place) for part in parts]
