"""Rows split among ranks that read the same ones: context parallelism (Llama Team 2024, section 3.3.2).

rows (B, T) -> 2 N chunks, of which rank i of N takes the i-th from either end, so that all attend to as many keys
            -> each layer: keys and values of all ranks gathered, which a rank's own queries attend to; for the backward
               pass they are gathered again
            -> losses (B, T / N) -> those of all ranks (B, T), of which a rank's own carry gradients

A model in training is called with whole rows and returns what it returns for them, so that losses, metrics and the loop
know nothing of the parts. In evaluation mode each rank reads whole rows by itself.

Legend: B batch, T time, N ranks of a group, K key heads, W width of a head.
"""

from __future__ import annotations

import inspect
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.distributed import ProcessGroup

from babyllm.model.attention import causal_attention
from babyllm.model.cross_entropy import IGNORE
from babyllm.model.document_attention import Part, seen_in_part
from babyllm.model.linear import product_dtype
from babyllm.model.transformer import Transformer
from babyllm.runtime import Runtime

if TYPE_CHECKING:
    from babyllm.model.document_attention import Seen

_ARGUMENTS = inspect.signature(Transformer.forward)


def share_rows(model: Transformer, runtime: Runtime) -> None:
    """Let a model in training compute this rank's part of its rows, in place; every rank must call it.

    Args:
        model: prepared model, the same on the `runtime.context` ranks of a group; they call it with the same rows.
        runtime: device and ranks.
    """
    own: ProcessGroup | None = None
    step = runtime.tensor
    for first in range(0, runtime.world_size, runtime.row_ranks):
        for begin in range(first, first + step):
            ranks = list(range(begin, begin + runtime.row_ranks, step))
            group = dist.new_group(ranks)  # which every rank makes, also of others
            own = group if runtime.rank in ranks else own
    assert own is not None
    shared = _SharedRows(own)
    model.register_forward_pre_hook(shared.begin, with_kwargs=True)
    model.register_forward_hook(shared.end, with_kwargs=True, always_call=True)


class _SharedRows:
    """The part of one rank in the rows of a group."""

    def __init__(self, group: ProcessGroup) -> None:
        self.group, self.n, self.rank = group, dist.get_world_size(group), dist.get_rank(group)

    def begin(self, model: Transformer, args: Any, kwargs: Any) -> tuple[tuple[()], dict[str, Any]] | None:
        """Before a pass: the arguments for this rank's part of the rows."""
        if not model.training:
            return None
        given = _ARGUMENTS.bind(model, *args, **kwargs).arguments
        del given["self"]
        tokens = given["tokens"]
        places = torch.arange(tokens.shape[1], device=tokens.device)[None]
        by_token = {name: x for name, x in given.items() if isinstance(x, Tensor)}
        by_token = {name: self._padded(x) for name, x in {"positions": places, **by_token}.items()}
        if "targets" in by_token:
            by_token["targets"][:, tokens.shape[1] :] = IGNORE
        length = by_token["tokens"].shape[1]
        size = length // (2 * self.n)
        parts = [range(i * size, (i + 1) * size) for i in (self.rank, 2 * self.n - 1 - self.rank)]
        if (documents := by_token.pop("documents", None)) is None:
            seen: Seen = seen_in_part(length, parts, product_dtype(model.embed_tokens.weight), tokens.device)
        else:
            seen = model.seen_in(documents, parts)
        gathers_again = not model.config.recomputed_every  # else such blocks gather again anyway, and keep nothing
        model.part = Part(tokens.shape[1], partial(self._attend, seen=seen, gathers_again=gathers_again))
        return (), {**given, "documents": None, **{name: self.part_of(x, 1) for name, x in by_token.items()}}

    def end(self, model: Transformer, args: Any, kwargs: Any, outputs: Any) -> Any:
        """After a pass, or after an error in it, when there are no outputs: the results of all ranks."""
        part, model.part = model.part, None
        if part is None or outputs is None:
            return outputs
        if isinstance(outputs, Tensor):
            return self._joined(outputs, part.length)
        return {name: self._joined(x, part.length) for name, x in outputs.items()}

    def _padded(self, x: Tensor) -> Tensor:
        """(B, T, ...) with the last column repeated until T is a multiple of 2 N; new, if it is longer."""
        missing = -x.shape[1] % (2 * self.n)
        return torch.cat([x, x[:, -1:].expand(-1, missing, *x.shape[2:])], dim=1) if missing else x

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, *, seen: Seen, gathers_again: bool) -> Tensor:
        """The attention of this rank's queries to the keys of whole rows: three times (B, ., T / N, W) -> as `q`."""
        part = torch.stack([k, v])
        whole: Tensor = _Gathered.apply(part, self)  # type: ignore[no-untyped-call]
        with self._gathering_again(part, whole) if gathers_again else nullcontext():
            return causal_attention(q, whole[0], whole[1], seen, "fused")

    def _gathering_again(self, part: Tensor, whole: Tensor) -> saved_tensors_hooks:
        """A context in which not `whole` is kept for the backward pass, but `part`, of which it is made again there."""
        mine, place, again = part.detach(), whole.untyped_storage().data_ptr(), list[Tensor]()

        def pack(x: Tensor) -> Any:
            is_of_whole = x.untyped_storage().data_ptr() == place
            return (x.shape, x.stride(), x.storage_offset()) if is_of_whole else x

        def unpack(kept: Any) -> Tensor:
            if isinstance(kept, Tensor):
                return kept
            if not again:
                again.append(self.whole(mine, 3))
            return again[0].as_strided(*kept)

        return saved_tensors_hooks(pack, unpack)

    def _joined(self, x: Tensor, length: int) -> Tensor:
        joined: Tensor = _Joined.apply(x, self, length)  # type: ignore[no-untyped-call]
        return joined

    def part_of(self, whole: Tensor, dim: int, rank: int | None = None) -> Tensor:
        """The part of a rank, by default this one, in what has all T tokens along `dim`."""
        i, chunks = self.rank if rank is None else rank, whole.chunk(2 * self.n, dim)
        return torch.cat([chunks[i], chunks[-1 - i]], dim)

    def whole(self, part: Tensor, dim: int) -> Tensor:
        """The parts of all ranks in the order of the row; `dim`, from 0, is that of the tokens."""
        received = part.new_empty(self.n * len(part), *part.shape[1:])
        dist.all_gather_into_tensor(received, part.contiguous(), group=self.group)
        early, late = received.view(self.n, *part.shape).chunk(2, dim + 1)
        return torch.cat([*early, *late.flip(0)], dim)


class _Gathered(torch.autograd.Function):
    """Keys and values (2, B, K, T / N, W) of a part -> those of whole rows (2, B, K, T, W)."""

    @staticmethod
    def forward(ctx: Any, part: Tensor, rows: _SharedRows) -> Tensor:
        ctx.rows = rows
        return rows.whole(part, 3)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        rows: _SharedRows = ctx.rows
        by_rank = torch.cat([rows.part_of(grads[0], 3, rank) for rank in range(rows.n)])
        mine = torch.empty_like(by_rank[: len(grads[0])])
        dist.reduce_scatter_tensor(mine, by_rank, group=rows.group)  # the sum over the ranks, whose queries see them
        return mine, None


class _Joined(torch.autograd.Function):
    """Results (B, T / N, ...) of a part -> those of all ranks (B, T, ...); only the part's own carry gradients."""

    @staticmethod
    def forward(ctx: Any, part: Tensor, rows: _SharedRows, length: int) -> Tensor:
        ctx.rows, ctx.shape, ctx.length = rows, part.shape, length
        return rows.whole(part, 1)[:, :length].contiguous()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        grad, rows = grads[0], ctx.rows
        if not any(grad.stride()):  # the gradient of a sum: one number, of which the output layer can make use
            return grad[(0,) * grad.dim()].expand(ctx.shape), None, None
        return rows.part_of(rows._padded(grad), 1), None, None
