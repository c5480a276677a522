"""What the tokens of packed rows see, and attention by document, without T x T numbers for a row of T tokens.

document numbers (B, T) -> "documents" on a CPU:              Spans      -> PyTorch's kernel, a document at a time
                        -> "documents" in 16 bits on CUDA:    BlockMask  -> flex attention (Dong et al. 2024), compiled
                        -> every other form, device and type: (B, 1, T, T), True where a token may look

All three are the same up to rounding. The time of the first grows with the documents' lengths squared and no more with
the row's; docs/en/training/pretraining.md has figures. Queries may be those of a part of a row, whose keys
are those of all of it.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

    Seen: TypeAlias = "Tensor | Spans | BlockMask | Part"

_BLOCK = 128  # queries and keys of a block, as the kernels take them
_NARROWEST = 16  # width of a head that the kernels take
_LATE = 512  # queries on a CPU that share a mask, which has a number for each of their keys
_flex: Callable[..., Tensor] | None = None


class Span(NamedTuple):
    """Documents of a row one after another: their queries, and the keys that these see.

    Attributes:
        keys: places of the keys in the row.
        lengths: number of queries of each document, which are the last of its keys.
        mask: what the queries of one document see that has earlier keys; None where both are of the same tokens.
    """

    keys: range
    lengths: list[int]
    mask: Tensor | None = None


class Spans(NamedTuple):
    """The spans of each row, or of all rows at once, in the order of their queries."""

    rows: list[list[Span]]


class Part(NamedTuple):
    """The place of tokens in rows of which other ranks have the rest.

    Attributes:
        length: tokens of a whole row, T.
        attend: function of the queries, keys and values of the part's tokens: `causal_attention` in the whole rows.
    """

    length: int
    attend: Callable[[Tensor, Tensor, Tensor], Tensor]


def seen_in(
    documents: Tensor, dtype: torch.dtype, head_width: int, *, by_document: bool, parts: Sequence[range] = ()
) -> Tensor | Spans | BlockMask:
    """What the tokens of rows see: earlier tokens with their own document's number, and themselves.

    Args:
        documents: (B, T) int64 numbers of the documents.
        dtype: type of queries, keys and values.
        head_width: width of a head.
        by_document: whether the form of attention is "documents".
        parts: places of the queries in the row, one part after another; empty for the whole row.
    """
    kind = documents.device.type
    if by_document and kind == "cpu" and (spans := _spans(documents, dtype, parts)):
        return spans
    has_kernel = head_width >= _NARROWEST and dtype.itemsize == 2 and importlib.util.find_spec("triton") is not None
    if by_document and kind == "cuda" and has_kernel:
        return block_mask(documents, parts)
    places, keys = _places(documents, parts), torch.arange(documents.shape[1], device=documents.device)
    is_own = documents[:, places, None] == documents[:, None, :]
    return (is_own & (places[:, None] >= keys)).unsqueeze(1)


def seen_in_part(length: int, parts: Sequence[range], dtype: torch.dtype, device: torch.device) -> Spans:
    """What the queries at `parts` of rows of `length` tokens see: all tokens before them, and themselves."""
    return Spans([_row_spans([length], parts, _Late(length, dtype, device))])


def attend_by_document(q: Tensor, k: Tensor, v: Tensor, seen: Spans | BlockMask) -> Tensor:
    """Causal attention within documents: (B, H, T, W), (B, K, T, W), (B, K, T, W) -> (B, H, T, W)."""
    is_grouped = k.shape[1] != q.shape[1]
    if not isinstance(seen, Spans):
        within: Tensor = _flex_attention()(q, k, v, block_mask=seen, enable_gqa=is_grouped)
        return within
    rows = []
    for spans, *qkv in zip(seen.rows, *(torch.split(x, len(x) // len(seen.rows)) for x in (q, k, v)), strict=True):
        queries, attended = iter(torch.split(qkv[0], [n for span in spans for n in span.lengths], dim=2)), []
        for keys, lengths, mask in spans:
            n_keys = lengths if mask is None else [len(keys)]
            k_of, v_of = (torch.split(x[:, :, keys.start : keys.stop], n_keys, dim=2) for x in qkv[1:])
            attended += [
                F.scaled_dot_product_attention(
                    next(queries), one, two, attn_mask=mask, is_causal=mask is None, enable_gqa=is_grouped
                )
                for one, two in zip(k_of, v_of, strict=True)
            ]
        rows.append(torch.cat(attended, dim=2))
    return torch.cat(rows)


def block_mask(documents: Tensor, parts: Sequence[range] = ()) -> BlockMask:
    """Which blocks of keys hold a token that some token of a block of queries sees, without a wait for the device.

    A block is left out where the ranges of the documents' numbers do not meet, and read without a mask where it is
    earlier and both blocks lie within one document. Arguments are as for `seen_in`.
    """
    from torch.nn.attention.flex_attention import BlockMask

    T = documents.shape[1]
    numbers, places = documents.to(torch.int32), _places(documents, parts)
    queries, keys = _blocks(places), _blocks(_places(documents, ()))
    low, high = numbers[:, keys].aminmax(dim=-1)  # (B, n) each, of a block of keys
    lows, highs = numbers[:, queries].aminmax(dim=-1)
    begin, end = queries.amin(-1)[:, None], queries.amax(-1)[:, None]
    meets = (low[:, None, :] <= highs[:, :, None]) & (high[:, None, :] >= lows[:, :, None]) & (keys.amin(-1) <= end)
    is_whole = meets & (lows == highs)[:, :, None] & (low == high)[:, None, :] & (keys.amax(-1) < begin)

    def sees(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        place = places[query]
        return (place >= key) & (numbers[row, place] == numbers[row, key])

    blocks = (*_listed(meets & ~is_whole), *_listed(is_whole))
    return BlockMask.from_kv_blocks(*blocks, BLOCK_SIZE=_BLOCK, mask_mod=sees, seq_lengths=(len(places), T))


def _places(documents: Tensor, parts: Sequence[range]) -> Tensor:
    """(Q,) int64 places of the queries in their row."""
    whole = torch.arange(documents.shape[1], device=documents.device)
    return torch.cat([whole[part.start : part.stop] for part in parts]) if parts else whole


def _blocks(places: Tensor) -> Tensor:
    """(n, _BLOCK) places, the last of them repeated."""
    n = -(-len(places) // _BLOCK)
    return places[torch.arange(n * _BLOCK, device=places.device).clamp_max(len(places) - 1)].view(n, _BLOCK)


def _listed(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """(B, n, n) bool -> the number of True in each row (B, 1, n), and their columns first (B, 1, n, n), int32."""
    order = blocks.to(torch.int8).argsort(dim=-1, descending=True, stable=True)
    return blocks.sum(-1, dtype=torch.int32).unsqueeze(1), order.to(torch.int32).unsqueeze(1)


def _spans(documents: Tensor, dtype: torch.dtype, parts: Sequence[range]) -> Spans | None:
    """The documents of each row; None where a number comes again after another one."""
    lengths, T = [], documents.shape[1]
    for row in documents:
        numbers, counts = row.unique_consecutive(return_counts=True)
        if len(numbers.unique()) < len(numbers):
            return None
        lengths.append(counts.tolist())
    late = _Late(T, dtype, documents.device)
    return Spans([_row_spans(of_row, parts or [range(T)], late) for of_row in lengths])


def _row_spans(lengths: Sequence[int], parts: Sequence[range], late: _Late) -> list[Span]:
    """The spans of a row whose documents have `lengths` tokens; the queries are its tokens at `parts`."""
    spans = []
    for part in parts:
        begin, within = 0, list[int]()
        for length in lengths:
            queries = range(max(begin, part.start), min(begin + length, part.stop))
            if queries and begin < part.start:
                spans += late.spans(begin, queries)
            elif queries:
                within.append(len(queries))
            begin += length
        if within:
            spans.append(Span(range(part.stop - sum(within), part.stop), within))
    return spans


class _Late:
    """Queries of a document whose first tokens are not among them."""

    def __init__(self, length: int, dtype: torch.dtype, device: torch.device) -> None:
        self._length, self._dtype, self._device = length, dtype, device

    @cached_property
    def _mask(self) -> Tensor:
        """(_LATE, T), 0 where the last queries of a row see a key, else -infinity; its corners serve shorter spans."""
        n = min(_LATE, self._length)
        unseen = torch.full((n, self._length), -torch.inf, dtype=self._dtype, device=self._device)
        return unseen.triu_(self._length - n + 1)

    def spans(self, begin: int, queries: range) -> list[Span]:
        """The spans of some tokens of a document that begins at `begin`."""
        if self._device.type == "cuda":  # whose kernels need no mask in memory
            from torch.nn.attention.bias import causal_lower_right

            keys = range(begin, queries.stop)
            return [Span(keys, [len(queries)], causal_lower_right(len(queries), len(keys)))]
        found = []
        for first in queries[::_LATE]:
            n = min(_LATE, queries.stop - first)
            keys = range(begin, first + n)
            found.append(Span(keys, [n], self._mask[-n:, -len(keys) :]))
        return found


def _flex_attention() -> Callable[..., Any]:
    """Flex attention, compiled once for each kind of shape; within compiled blocks it is compiled with them."""
    global _flex
    from torch.nn.attention.flex_attention import flex_attention

    if torch.compiler.is_compiling():
        return flex_attention
    if _flex is None:
        _flex = torch.compile(flex_attention)
    return _flex
