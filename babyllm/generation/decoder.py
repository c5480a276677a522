"""The forward pass of generation, with a KV cache: few products and operations per step, and no copies of the cache.

Transformer -> Decoder: matrices in the dtype of the products, a cache of `slots` rows of `context` tokens
tokens (N, T) after those cached in N adjacent rows -> embedding -> layers -> norm -> head -> logits of the last (N, V)

Legend: N rows, T new tokens, S cached and new tokens, D model width, H heads, K kv heads, W width of a head,
V vocabulary.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from babyllm.errors import UserError
from babyllm.generation.matrix import Matrix
from babyllm.model.adapt.token_rows import dense_embedding
from babyllm.model.attention import Attention
from babyllm.model.interface import gathering
from babyllm.model.linear import joined_bias, joined_int8, joined_weight
from babyllm.model.transformer import Block, Transformer
from babyllm.runtime.precision import dtype_here

PREFILL_TOKENS = 256
"""Number of prompt tokens read at once: enough to keep a processor busy, few enough to take little memory."""
# Columns of the cache that are zeroed at a time, so that a long context takes memory only when it is used.
_BLOCK = 256


def require_readable(prompt: Sequence[int], context: int, vocab_size: int, n_new: int = 1) -> None:
    """Check that a prompt of token ids fits into a context.

    Raises:
        UserError: the prompt is empty, leaves no room for `n_new` tokens, or has ids outside of the vocabulary.
    """
    if not 1 <= len(prompt) <= context - n_new:
        raise UserError(f"a prompt of {len(prompt)} tokens leaves no room in the context of {context}")
    if min(prompt) < 0 or max(prompt) >= vocab_size:
        raise UserError(f"the prompt has ids outside of the model's vocabulary of {vocab_size}")


class _Pass(NamedTuple):
    """Tokens (N, T) between two layers: hidden states, indices in the cache, and the tokens they may attend to."""

    x: Tensor  # (N T, D), changed in place
    shape: tuple[int, int]
    columns: Tensor  # (N T 2 K) int64, of the tokens' keys and values in the flat cache of a layer
    turns: Tensor  # (N T, W, W) float32, rotations of the tokens' queries and keys
    keys: tuple[Tensor, ...]  # (N, K, S, W) of each layer
    values: tuple[Tensor, ...]
    mask: Tensor | None
    is_causal: bool


class _Layer(NamedTuple):
    input_norm: Tensor
    qkv: Matrix
    qkv_bias: Tensor | None
    qk_norm: Tensor | None  # (H + K, W) float32
    out: Matrix
    mlp_norm: Tensor
    gate_up: Matrix
    down: Matrix


class _Gathered(Sequence[_Layer]):
    """The layers of blocks, each made when it is asked for; those of a divided model are gathered for that."""

    def __init__(self, blocks: Sequence[Block], make: Callable[[Block], _Layer]) -> None:
        self._blocks, self._make = blocks, make

    def __len__(self) -> int:
        return len(self._blocks)

    def __getitem__(self, i: Any) -> Any:
        with (gathering(self._blocks[i]) or nullcontext)():
            return self._make(self._blocks[i])


class Decoder:
    """Computes logits of the next token after the tokens in each row of its cache.

    It uses the weights that the model has at construction. They are shared with the model if they are int8 or have the
    dtype of the products, else copied. Those of a divided model's blocks are gathered in each pass instead.

    Attributes:
        context: number of tokens that fit into a row.
        dtype: dtype of products, keys and values, chosen at construction (`babyllm.runtime.precision`).
    """

    def __init__(self, model: Transformer, slots: int, context: int) -> None:
        """Take the weights of `model`, which may be in training mode, and allocate a cache of `slots` rows.

        Args:
            model: a model in any mode.
            slots: number of rows of the cache.
            context: number of tokens that fit into a row.

        Raises:
            UserError: the context is longer than the model's, and its RoPE scaling is not dynamic.
        """
        config = model.config
        embed = dense_embedding(model.embed_tokens).detach()
        device = embed.device
        self.device = device
        self.dtype = dtype_here(embed)
        self._heads, self._kv_heads, self._width = config.n_heads, config.kv_heads, config.head_width
        # x / sqrt(mean(x^2) + eps) = x sqrt(D) / sqrt(sum(x^2) + D eps); sqrt(D) is folded into the norms' weights.
        self._eps, self._root = torch.tensor(config.d_model * config.norm_eps, device=device), config.d_model**0.5
        self._head_eps = torch.tensor(config.head_width * config.norm_eps, device=device)
        with torch.no_grad():
            cos, sin = model.rotations(context, device)
            self._cos, self._sin = cos[:, None], torch.cat([-sin, sin], dim=-1)[:, None]  # (context, 1, W)
            self._same = torch.eye(config.head_width, device=device)
            self._turned = self._same.roll(config.head_width // 2, 0)
            self._embed = embed
            blocks = [cast(Block, block) for block in model.layers]
            matrices = [layer for layer in blocks[0].modules() if isinstance(layer, nn.Linear)]
            self._layer_size = sum(layer.in_features * layer.out_features for layer in matrices)
            # A packed copy, which a matrix makes for many rows, would not be used again.
            self._rows = 1 if gathering(blocks[0]) else slots
            gathered = _Gathered(blocks, self._layer)
            self._layers: Sequence[_Layer] = gathered if gathering(blocks[0]) else list(gathered)
            self._norm = model.norm.weight.detach() * self._root
            self._head = self._matrix(model.lm_head)
        self._make_room(slots, context)

    def _make_room(self, slots: int, context: int) -> None:
        self.context = context
        shape = (len(self._layers), slots, 2 * self._kv_heads, context, self._width)
        self._cache = torch.empty(shape, device=self.device, dtype=self.dtype)
        self._columns = self._cache.view(len(self._layers), -1, self._width).unbind(0)
        self._n_ready = 0

    @property
    def bytes_per_token(self) -> int:
        """Bytes of the keys and values of a token."""
        return len(self._layers) * 2 * self._kv_heads * self._width * self.dtype.itemsize

    def make_pages(self, n_pages: int, size: int) -> None:
        """Make room for `n_pages` copies of `size` tokens each; on a CPU, memory is taken when they are filled."""
        shape = (n_pages, len(self._layers), 2 * self._kv_heads, size, self._width)
        self._pages = torch.empty(shape, device=self.device, dtype=self.dtype)

    def save_pages(self, row: int, begin: int, end: int, pages: Sequence[int]) -> None:
        """Copy the tokens from `begin` to `end`, exclusive, of a row to pages; the last one may not become full."""
        for page, place in self._placed(row, begin, end, pages):
            page.copy_(place)

    def load_pages(self, row: int, pages: Sequence[int], begin: int, end: int) -> None:
        """Copy pages to the tokens from `begin` to `end`, exclusive, of a row; the last one may not be used in full."""
        self._make_ready(end)
        for page, place in self._placed(row, begin, end, pages):
            place.copy_(page)

    def _placed(self, row: int, begin: int, end: int, pages: Sequence[int]) -> Iterator[tuple[Tensor, Tensor]]:
        """Each page (layers, 2 K, tokens, W) as far as it is used, and its place in the row."""
        size = self._pages.shape[3]
        for i, page in enumerate(pages):
            at = begin + i * size
            n = min(size, end - at)
            yield self._pages[page, :, :, :n], self._cache[:, row, :, at : at + n]

    def beside(self, slots: int, context: int) -> Decoder:
        """A decoder with the same weights and a cache of its own; `context` is at most that of this decoder."""
        other = copy.copy(self)
        other._make_room(slots, context)
        return other

    def _layer(self, block: Block) -> _Layer:
        attention, mlp = block.self_attn, block.mlp
        projections = attention.q_proj, attention.k_proj, attention.v_proj
        bias = joined_bias(projections)
        return _Layer(
            block.input_layernorm.weight.detach() * self._root,
            self._matrix(*projections),
            None if bias is None else bias.detach().to(self.dtype),
            self._qk_norm(attention),
            self._matrix(attention.o_proj),
            block.post_attention_layernorm.weight.detach() * self._root,
            self._matrix(mlp.gate_proj, mlp.up_proj),
            self._matrix(mlp.down_proj),
        )

    def _qk_norm(self, attention: Attention) -> Tensor | None:
        """Weights (H + K, W) of the norms of queries and keys, times the root of the width."""
        if not attention.has_norms:
            return None
        weights = [(attention.q_norm, self._heads), (attention.k_norm, self._kv_heads)]
        return torch.cat([norm.weight.detach().expand(n, -1) * self._width**0.5 for norm, n in weights])

    def _matrix(self, *layers: nn.Linear) -> Matrix:
        if held := joined_int8(layers):
            return Matrix(held[0], self._rows, held[1])
        return Matrix(joined_weight(layers, self.dtype), self._rows)

    def read(self, tokens: Tensor, first: int, lengths: Sequence[int], counts: Sequence[int] | None = None) -> Tensor:
        """Logits after the last new token of each row; the keys and values of the new tokens are added to the cache.

        Args:
            tokens: (N, T) int64 token ids, on the decoder's device.
            first: index of the first row; the N rows are adjacent.
            lengths: number of tokens in the cache before the new ones, for each of the N rows.
            counts: number of tokens of each row before its padding, at least one; None if no row is padded.

        Returns:
            (N, V) float32 on the CPU.
        """
        N, T = tokens.shape
        # Copied before the forward pass, because a copy to a GPU waits for work that was submitted earlier.
        ends = [i * T + (counts[i] if counts else T) - 1 for i in range(N)]
        last = None if T == 1 else torch.tensor(ends, device=self.device)
        x = self._hidden(tokens, first, lengths)  # (N T, D)
        return self._logits(x if last is None else x[last])

    def read_all(self, tokens: Tensor, first: int, lengths: Sequence[int]) -> Tensor:
        """Logits after each of the new tokens, (N, T, V) float32 on the CPU; arguments as for `read`."""
        return self._logits(self._hidden(tokens, first, lengths)).view(*tokens.shape, -1)

    def _logits(self, x: Tensor) -> Tensor:
        return self._head(self._normed(x, self._norm)).float().cpu()

    def read_in_steps(self, tokens: Tensor, row: int, length: int, effort: int) -> Iterator[Tensor | None]:
        """Read tokens of one row as `read` does, but a few layers per step; other rows may be read between the steps.

        Args:
            tokens: (1, T) int64 token ids, on the decoder's device.
            row: index of the row, which must not be moved between the steps.
            length: number of tokens in the row before the new ones.
            effort: work per step, as for `n_tokens_in_a_layer`. A step computes at least one layer, so it may take
                more.

        Yields:
            None after each step but the last, then the logits after the last token, (1, V) float32 on the CPU.
        """
        T = tokens.shape[1]
        while self._n_ready < length + T:
            self._make_ready(self._n_ready + 1)
            yield None
        passing = self._begin(tokens, row, [length])
        n_layers = max(1, self.n_tokens_in_a_layer(effort, length) // T)
        for i in range(len(self._layers)):
            if i and i % n_layers == 0:
                yield None
            self._pass(i, passing)
        yield self._logits(passing.x[-1:])

    def n_tokens_in_a_layer(self, effort: int, length: int) -> int:
        """Number of tokens, after `length` others, that cost as much in one layer as the first `effort` do in all."""
        of_attention = 2 * self._heads * self._width * length
        return effort * len(self._layers) * self._layer_size // (self._layer_size + of_attention)

    def n_first_tokens(self, n: int, length: int) -> int:
        """Number of tokens at the beginning of a text that cost as much as `n` tokens after `length` others."""
        return n + n * 2 * self._heads * self._width * length // self._layer_size

    def _hidden(self, tokens: Tensor, first: int, lengths: Sequence[int]) -> Tensor:
        """Hidden states (N T, D) of tokens (N, T) after all layers."""
        passing = self._begin(tokens, first, lengths)
        for i in range(len(self._layers)):
            self._pass(i, passing)
        return passing.x

    def _begin(self, tokens: Tensor, first: int, lengths: Sequence[int]) -> _Pass:
        N, T = tokens.shape
        longest = max(lengths) + T
        self._make_ready(longest)
        positions = torch.tensor(lengths, device=self.device)[:, None] + torch.arange(T, device=self.device)  # (N, T)
        columns, turns = self._places(positions, first), self._turns(positions.flatten())
        held = self._cache[:, first : first + N, :, :longest]  # (layers, N, 2 K, S, W)
        keys, values = held[:, :, : self._kv_heads].unbind(0), held[:, :, self._kv_heads :].unbind(0)
        is_causal = T > 1 and longest == T
        mask = None if is_causal or (T == 1 and min(lengths) + T == longest) else self._mask(positions, longest)
        x = F.embedding(tokens.flatten(), self._embed)
        return _Pass(x, (N, T), columns, turns, keys, values, mask, is_causal)

    def _pass(self, i: int, passing: _Pass) -> None:
        """Apply layer `i` to the tokens."""
        layer, x = self._layers[i], passing.x
        qkv = layer.qkv(self._normed(x, layer.input_norm))
        if layer.qkv_bias is not None:
            qkv = qkv + layer.qkv_bias
        q = self._stored(qkv, layer.qk_norm, passing, i)
        q, k, v = q.view(*passing.shape, self._heads, self._width), passing.keys[i], passing.values[i]
        x.add_(layer.out(self._attended(q, k, v, passing.mask, passing.is_causal)))
        h = self._normed(x, layer.mlp_norm)
        gate, up = layer.gate_up(h).chunk(2, dim=1)
        x.add_(layer.down(F.silu(gate).mul_(up)))

    def move(self, source: int, target: int, end: int, begin: int = 0) -> None:
        """Copy the cache of the tokens from `begin` to `end`, exclusive, of row `source` to row `target`."""
        self._cache[:, target, :, begin:end] = self._cache[:, source, :, begin:end]

    def swap(self, one: int, other: int, length: int) -> None:
        """Exchange the caches of the first `length` tokens of two rows."""
        for layer in self._cache:
            kept = layer[one, :, :length].clone()
            layer[one, :, :length] = layer[other, :, :length]
            layer[other, :, :length] = kept

    def reorder(self, sources: Tensor, length: int) -> None:
        """Copy row `sources[i]` to row i for each i; `sources` is (N,) int64, and each row has `length` tokens."""
        held = self._cache[:, :, :, :length]
        held[:, : len(sources)] = held[:, sources]

    def clear(self, row: int, begin: int = 0) -> None:
        """Zero a row's cache from token `begin` on, so that its NaNs cannot reach other rows."""
        self._cache[:, row, :, begin : self._n_ready] = 0

    def _make_ready(self, longest: int) -> None:
        # Columns that are not filled yet are multiplied by zero, which would not remove a NaN.
        while self._n_ready < longest:
            self._cache[:, :, :, self._n_ready : self._n_ready + _BLOCK] = 0
            self._n_ready += _BLOCK

    def _places(self, positions: Tensor, first: int) -> Tensor:
        """Indices (N T 2 K) int64 of keys and values in the flat cache of a layer, for tokens at `positions` (N, T)."""
        N = len(positions)
        heads = torch.arange(2 * self._kv_heads, device=self.device)
        rows = torch.arange(first, first + N, device=self.device)[:, None, None] * (2 * self._kv_heads) + heads
        return (rows * self.context + positions[:, :, None]).flatten()

    def _turns(self, positions: Tensor) -> Tensor:
        """Matrices (N T, W, W) that rotate a query or key, as a row vector, by its position: RoPE as one product."""
        return torch.addcmul(self._same * self._cos[positions], self._turned, self._sin[positions])

    def _mask(self, positions: Tensor, longest: int) -> Tensor:
        """(N, 1, T, S) attention bias: zero where a token may attend, else minus infinity."""
        hidden = positions[:, None, :, None] < torch.arange(longest, device=self.device)
        return torch.zeros(hidden.shape, device=self.device, dtype=self.dtype).masked_fill_(hidden, float("-inf"))

    def _normed(self, x: Tensor, weight: Tensor) -> Tensor:
        return _rms_normed(x, weight, self._eps).to(self.dtype)

    def _stored(self, qkv: Tensor, norm: Tensor | None, passing: _Pass, i: int) -> Tensor:
        """Write keys and values of `qkv` (N T, (H + 2 K) W) to the cache of layer `i`; return queries (N T, H, W)."""
        heads = qkv.reshape(len(qkv), -1, self._width)
        n_turned = self._heads + self._kv_heads
        qk = heads[:, :n_turned].float()
        if norm is not None:
            qk = _rms_normed(qk, norm, self._head_eps)
        qk = torch.bmm(qk, passing.turns).to(self.dtype)
        kept = torch.cat([qk[:, self._heads :], heads[:, n_turned:]], dim=1).view(-1, self._width)
        self._columns[i].index_copy_(0, passing.columns, kept)
        return qk[:, : self._heads]

    def _attended(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, is_causal: bool) -> Tensor:
        """Attention of the queries (N, T, H, W) to keys and values (N, K, S, W), as (N T, D)."""
        N, T, _, W = q.shape
        if T == 1:  # queries that share a kv head become several tokens of one head
            q = q.view(N, self._kv_heads, -1, W)
            return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).reshape(N, -1)
        found = F.scaled_dot_product_attention(
            q.transpose(1, 2), k, v, attn_mask=mask, is_causal=is_causal, enable_gqa=self._heads != self._kv_heads
        )
        return found.transpose(1, 2).reshape(N * T, -1)


def _rms_normed(x: Tensor, weight: Tensor, eps: Tensor) -> Tensor:
    """Return x / sqrt(sum(x^2) + eps) * weight over the last dimension; the root of its width is a part of `weight`."""
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
    return (x * torch.addcmul(eps, norm, norm).rsqrt_()).mul_(weight)
