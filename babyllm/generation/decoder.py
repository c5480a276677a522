"""The transformer's forward pass for generation: weights as they are read fastest, keys and values kept in place.

Transformer -> Decoder: weights in the type of the products, a cache of `slots` rows of `context` tokens
tokens (N, T) behind what N adjacent rows hold -> embed -> layers -> norm -> head -> logits of the last (N, V)

Legend: N rows, T new time, S cached and new time, D model width, H heads, K kv heads, W width of a head, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from babyllm.model.linear import dense_weight
from babyllm.model.transformer import Block, Transformer

# Columns of the cache that are made ready at a time, so that a long context takes memory only when it is used.
_BLOCK = 256
# Rows from which on it pays to convert bfloat16 weights for a processor that cannot multiply them.
_MANY = 32

Weights = tuple[Tensor, ...]
"""Matrices (O, I) whose products with one input stand side by side."""


class _Layer(NamedTuple):
    input_norm: Tensor
    qkv: Weights
    out: Weights
    mlp_norm: Tensor
    gate_up: Weights
    down: Weights


class Decoder:
    """Logits of the tokens that follow what its rows hold.

    Weights are those the model has now: shared with it where they have the type of the products, else copied once.

    Attributes:
        context: tokens that fit into a row.
        dtype: of the products, the keys and the values; what autocast says now, else the type of the model's weights.
    """

    def __init__(self, model: Transformer, slots: int, context: int) -> None:
        """Take the weights of `model`, which may be in training, and make room for `slots` rows.

        Raises:
            UserError: the context is longer than the model's and its rotary positions do not stretch.
        """
        config = model.config
        embed = model.embed_tokens.weight.detach()
        device = embed.device
        self.context, self.device = context, device
        self.dtype = torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else embed.dtype
        self._heads, self._kv_heads, self._width = config.n_heads, config.kv_heads, config.head_dim
        # x / sqrt(mean(x^2) + eps) = x sqrt(D) / sqrt(sum(x^2) + D eps); the root is a part of the norms' weights here.
        self._eps, self._root = torch.tensor(config.d_model * config.norm_eps, device=device), config.d_model**0.5
        self._is_emulated = self.dtype == torch.bfloat16 and _emulates_bfloat16(device)
        with torch.no_grad():
            cos, sin = model.rotations(context, device)
            self._cos, self._sin = cos[:, None], torch.cat([-sin, sin], dim=-1)[:, None]  # (context, 1, W)
            self._turn = torch.arange(config.head_dim, device=device).roll(config.head_dim // 2)
            self._embed = embed
            self._layers = [self._layer(block) for block in model.layers if isinstance(block, Block)]
            self._norm, self._head = model.norm.weight.detach() * self._root, self._weights(model.lm_head)
        shape = (config.n_layers, slots, context, 2 * config.kv_heads, config.head_dim)
        self._cache = torch.empty(shape, device=device, dtype=self.dtype)
        self._columns = self._cache.view(config.n_layers, slots * context, -1).unbind(0)
        self._n_ready = 0

    def _layer(self, block: Block) -> _Layer:
        attention, mlp = block.self_attn, block.mlp
        return _Layer(
            block.input_layernorm.weight.detach() * self._root,
            self._weights(attention.q_proj, attention.k_proj, attention.v_proj),
            self._weights(attention.o_proj),
            block.post_attention_layernorm.weight.detach() * self._root,
            self._weights(mlp.gate_proj, mlp.up_proj),
            self._weights(mlp.down_proj),
        )

    def _weights(self, *layers: nn.Linear) -> Weights:
        """The layers' matrices; joined to one where they must be copied anyway."""
        dense = [dense_weight(layer).detach() for layer in layers]
        if all(weight.dtype == self.dtype for weight in dense):
            return tuple(dense)
        return (torch.cat([weight.to(self.dtype) for weight in dense]),)

    def read(self, tokens: Tensor, first: int, lengths: Sequence[int]) -> Tensor:
        """Logits behind the last of the new tokens of each row; their keys and values are kept.

        Args:
            tokens: (N, T) int64.
            first: the first row; the N rows are adjacent.
            lengths: tokens each of the N rows holds, that the new ones follow.

        Returns:
            (N, V) float32 on the CPU.
        """
        N, T = tokens.shape
        longest = max(lengths) + T
        self._make_ready(longest)
        starts = torch.tensor(lengths, device=self.device)
        positions = starts[:, None] + torch.arange(T, device=self.device)  # (N, T)
        rows = torch.arange(first, first + N, device=self.device)[:, None]
        columns = (rows * self.context + positions).flatten()
        cos, sin = self._cos[positions], self._sin[positions]  # (N, T, 1, W)
        held = self._cache[:, first : first + N, :longest].transpose(2, 3)  # (layers, N, 2 K, S, W)
        keys, values = held[:, :, : self._kv_heads].unbind(0), held[:, :, self._kv_heads :].unbind(0)
        is_causal = T > 1 and longest == T
        mask = None if is_causal or (T == 1 and min(lengths) + T == longest) else self._mask(positions, longest)
        x = F.embedding(tokens, self._embed)  # (N, T, D)
        for layer, kept, k, v in zip(self._layers, self._columns, keys, values, strict=True):
            h = self._normed(x, layer.input_norm)
            q = self._store(self._products(h, layer.qkv), cos, sin, kept, columns)
            x = x + self._products(self._attended(q, k, v, mask, is_causal), layer.out)
            h = self._normed(x, layer.mlp_norm)
            gate, up = self._products(h, layer.gate_up).chunk(2, dim=-1)
            x = x + self._products(F.silu(gate).mul_(up), layer.down)
        return self._products(self._normed(x[:, -1:], self._norm), self._head)[:, 0].float().cpu()

    def move(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` tokens of a row to another row."""
        self._cache[:, target, :length] = self._cache[:, source, :length]

    def reorder(self, sources: Tensor, length: int) -> None:
        """Make row i what row `sources[i]` was, for the first rows, of which each holds `length` tokens."""
        held = self._cache[:, :, :length]
        held[:, : len(sources)] = held[:, sources]

    def clear(self, row: int) -> None:
        """Take away what a row holds, so that numbers that are none cannot spread to others."""
        self._cache[:, row, : self._n_ready] = 0

    def _make_ready(self, longest: int) -> None:
        # A row's columns that are not filled yet are multiplied by zero, so they must be numbers.
        while self._n_ready < longest:
            self._cache[:, :, self._n_ready : self._n_ready + _BLOCK] = 0
            self._n_ready += _BLOCK

    def _mask(self, positions: Tensor, longest: int) -> Tensor:
        """(N, 1, T, S), added to the scores: zero where a token may look, else minus infinity."""
        hidden = positions[:, None, :, None] < torch.arange(longest, device=self.device)
        return torch.zeros(hidden.shape, device=self.device, dtype=self.dtype).masked_fill_(hidden, float("-inf"))

    def _normed(self, x: Tensor, weight: Tensor) -> Tensor:
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
        scale = torch.addcmul(self._eps, norm, norm).rsqrt_()
        return (x * scale).mul_(weight).to(self.dtype)

    def _store(self, qkv: Tensor, cos: Tensor, sin: Tensor, kept: Tensor, columns: Tensor) -> Tensor:
        """Turn queries and keys by their positions and keep keys and values; gives the queries (N, T, H, W)."""
        N, T, _ = qkv.shape
        heads = qkv.view(N, T, -1, self._width).float()
        qk = heads[:, :, : self._heads + self._kv_heads]
        turned = qk.index_select(-1, self._turn)
        qk.mul_(cos).addcmul_(turned, sin)
        heads = heads.to(self.dtype)
        kept.index_copy_(0, columns, heads[:, :, self._heads :].reshape(N * T, -1))
        return heads[:, :, : self._heads]

    def _attended(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, is_causal: bool) -> Tensor:
        """What the queries (N, T, H, W) find in keys and values (N, K, S, W); gives (N, T, D)."""
        N, T, _, W = q.shape
        if T == 1:  # the queries that share a head's keys look at them as if they were several of one head
            q = q.reshape(N, self._kv_heads, -1, W)
            return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).reshape(N, 1, -1)
        found = F.scaled_dot_product_attention(
            q.transpose(1, 2), k, v, attn_mask=mask, is_causal=is_causal, enable_gqa=self._heads != self._kv_heads
        )
        return found.transpose(1, 2).reshape(N, T, -1)

    def _products(self, x: Tensor, weights: Weights) -> Tensor:
        """What matrices (O, I) make of `x` (N, T, I), side by side: (N, T, sum of O)."""
        rows = x.reshape(-1, x.shape[-1])
        if self._is_emulated and len(rows) >= _MANY:
            rows, weights = rows.float(), tuple(weight.float() for weight in weights)
        if rows.dtype == torch.float32 and x.device.type == "cpu" and len(rows) > 1:
            # On CPUs a product with few columns takes less time than one with few rows.
            products = [torch.mm(weight, rows.T) for weight in weights]
            joined = (torch.cat(products) if len(products) > 1 else products[0]).T
        else:
            products = [torch.mm(rows, weight.T) for weight in weights]
            joined = torch.cat(products, dim=1) if len(products) > 1 else products[0]
        return joined.to(self.dtype).reshape(*x.shape[:-1], -1)


def _emulates_bfloat16(device: torch.device) -> bool:
    """Whether a CPU converts bfloat16 to multiply it. The two tests are private in PyTorch and may go."""
    tests = [getattr(torch.cpu, test, None) for test in ("_is_amx_tile_supported", "_is_avx512_bf16_supported")]
    return device.type == "cpu" and not any(test() for test in tests if test)
