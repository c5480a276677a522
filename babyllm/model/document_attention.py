"""What the tokens of packed rows see, and attention by document, without T x T numbers for a row of T tokens.

document numbers (B, T) -> "documents" on a CPU:              Spans      -> PyTorch's kernel, a document at a time
                        -> "documents" in 16 bits on CUDA:    BlockMask  -> flex attention (Dong et al. 2024), compiled
                        -> every other form, device and type: (B, 1, T, T), True where a token may look

All three are the same up to rounding. The time of the first grows with the documents' lengths squared and no more with
the row's; docs/pretraining.md has figures.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

    Seen: TypeAlias = "Tensor | Spans | BlockMask"

_BLOCK = 128  # queries and keys of a block, as the kernels take them
_NARROWEST = 16  # width of a head that the kernels take
_flex: Callable[..., Tensor] | None = None


class Spans(NamedTuple):
    """The lengths of the documents of each row, in order; each row's add up to T."""

    lengths: list[list[int]]


def seen_in(documents: Tensor, dtype: torch.dtype, head_width: int, *, by_document: bool) -> Seen:
    """What the tokens of rows see: earlier tokens with their own document's number, and themselves.

    Args:
        documents: (B, T) int64 numbers of the documents.
        dtype: type of queries, keys and values.
        head_width: width of a head.
        by_document: whether the form of attention is "documents".
    """
    kind = documents.device.type
    if by_document and kind == "cpu" and (spans := _spans(documents)):
        return spans
    has_kernel = head_width >= _NARROWEST and dtype.itemsize == 2 and importlib.util.find_spec("triton") is not None
    if by_document and kind == "cuda" and has_kernel:
        return block_mask(documents)
    T = documents.shape[1]
    causal = torch.ones(T, T, dtype=torch.bool, device=documents.device).tril()
    return ((documents[:, :, None] == documents[:, None, :]) & causal).unsqueeze(1)


def attend_by_document(q: Tensor, k: Tensor, v: Tensor, seen: Spans | BlockMask) -> Tensor:
    """Causal attention within documents: (B, H, T, W), (B, K, T, W), (B, K, T, W) -> (B, H, T, W)."""
    is_grouped = k.shape[1] != q.shape[1]
    if not isinstance(seen, Spans):
        within: Tensor = _flex_attention()(q, k, v, block_mask=seen, enable_gqa=is_grouped)
        return within
    rows = []
    for row, lengths in enumerate(seen.lengths):
        parts = zip(*(torch.split(x[row : row + 1], lengths, dim=2) for x in (q, k, v)), strict=True)
        attended = [
            F.scaled_dot_product_attention(q_of, k_of, v_of, is_causal=True, enable_gqa=is_grouped)
            for q_of, k_of, v_of in parts
        ]
        rows.append(torch.cat(attended, dim=2))
    return torch.cat(rows)


def block_mask(documents: Tensor) -> BlockMask:
    """Which blocks of keys hold a token that some token of a block of queries sees, without a wait for the device.

    A block is left out where the ranges of the documents' numbers do not meet, and read without a mask where it is
    earlier and both blocks lie within one document.
    """
    from torch.nn.attention.flex_attention import BlockMask

    T = documents.shape[1]
    numbers = documents.to(torch.int32)
    n = -(-T // _BLOCK)
    places = torch.arange(n * _BLOCK, device=documents.device).clamp_max(T - 1)
    low, high = numbers[:, places].view(-1, n, _BLOCK).aminmax(dim=-1)  # (B, n) each
    back = torch.ones(n, n, dtype=torch.bool, device=documents.device).tril()
    meets = (low[:, :, None] <= high[:, None, :]) & (high[:, :, None] >= low[:, None, :]) & back
    is_single = low == high
    is_whole = meets & is_single[:, :, None] & is_single[:, None, :] & back.tril(-1)

    def sees(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (query >= key) & (numbers[row, query] == numbers[row, key])

    blocks = (*_listed(meets & ~is_whole), *_listed(is_whole))
    return BlockMask.from_kv_blocks(*blocks, BLOCK_SIZE=_BLOCK, mask_mod=sees, seq_lengths=(T, T))


def _listed(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """(B, n, n) bool -> the number of True in each row (B, 1, n), and their columns first (B, 1, n, n), int32."""
    order = blocks.to(torch.int8).argsort(dim=-1, descending=True, stable=True)
    return blocks.sum(-1, dtype=torch.int32).unsqueeze(1), order.to(torch.int32).unsqueeze(1)


def _spans(documents: Tensor) -> Spans | None:
    """The documents of each row; None where a number comes again after another one."""
    lengths = []
    for row in documents:
        numbers, counts = row.unique_consecutive(return_counts=True)
        if len(numbers.unique()) < len(numbers):
            return None
        lengths.append(counts.tolist())
    return Spans(lengths)


def _flex_attention() -> Callable[..., Any]:
    """Flex attention, compiled once for each kind of shape; within compiled blocks it is compiled with them."""
    global _flex
    from torch.nn.attention.flex_attention import flex_attention

    if torch.compiler.is_compiling():
        return flex_attention
    if _flex is None:
        _flex = torch.compile(flex_attention)
    return _flex
