"""Rotary position embedding (Su et al. 2021) and its four ways to reach longer contexts.

config, length -> table of angles -> cos, sin (T, D/2) -> rotated q and k

Legend: B batch, T time, H query heads, K key heads, D width of a head.
Pairs are (i, i + D/2), the layout of Hugging Face files. `plain_rotation` is the formula.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from babyllm.model.config import ModelConfig, RopeScaling


def inverse_frequencies(config: ModelConfig, seq_len: int) -> tuple[Tensor, float]:
    """The angle per position of each pair of dimensions, and the factor of cos and sin.

    Args:
        config: shape, `rope_theta` and `rope_scaling`.
        seq_len: length in tokens of the sequence at hand; only "dynamic" scaling depends on it.

    Returns:
        (D/2,) float32 in radians per token, and the dimensionless attention factor.
    """
    scaling = config.rope_scaling
    if scaling is None:
        return _frequencies(config.rope_theta, config.head_width), 1.0
    original = scaling.original_max_seq_len or config.max_seq_len
    plain = _frequencies(config.rope_theta, config.head_width)
    if scaling.type == "linear":
        return plain / scaling.factor, 1.0
    if scaling.type == "dynamic":
        longest = max(seq_len, original)
        growth = scaling.factor * longest / original - (scaling.factor - 1)
        theta = config.rope_theta * growth ** (config.head_width / (config.head_width - 2))
        return _frequencies(theta, config.head_width), 1.0
    if scaling.type == "llama3":
        return _llama3(plain, scaling, original), 1.0
    return _yarn(plain, scaling, original, config)


def _frequencies(theta: float, head_dim: int) -> Tensor:
    exponents = torch.arange(0, head_dim, 2, dtype=torch.int64).float() / head_dim
    return torch.as_tensor(1.0 / theta**exponents)


def _llama3(plain: Tensor, scaling: RopeScaling, original: int) -> Tensor:
    """Llama 3.1: long wavelengths are stretched, short ones kept, those between are blended linearly."""
    turns = original * plain / (2 * math.pi)
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    kept = ((turns - low) / (high - low)).clamp(0, 1)
    return plain / scaling.factor * (1 - kept) + plain * kept


def _yarn(plain: Tensor, scaling: RopeScaling, original: int, config: ModelConfig) -> tuple[Tensor, float]:
    """YaRN (Peng et al. 2023, sections 3.2 and 3.4): a ramp over dimensions between stretched and kept."""
    d = config.head_width

    def dimension_of(rotations: float) -> float:
        return d * math.log(original / (rotations * 2 * math.pi)) / (2 * math.log(config.rope_theta))

    low = max(math.floor(dimension_of(scaling.beta_fast)), 0)
    high = min(math.ceil(dimension_of(scaling.beta_slow)), d - 1)
    stretched = ((torch.arange(d // 2, dtype=torch.float32) - low) / max(high - low, 0.001)).clamp(0, 1)
    factor = scaling.attention_factor
    if factor is None:
        factor = 0.1 * math.log(scaling.factor) + 1.0 if scaling.factor > 1 else 1.0
    return plain / scaling.factor * stretched + plain * (1 - stretched), factor


def rope_table(config: ModelConfig, length: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines (length, D), alike in both halves, and sines (length, D/2) of every position below `length`, float32."""
    frequencies, factor = inverse_frequencies(config, length)
    angles = torch.outer(torch.arange(length, dtype=torch.float32), frequencies)
    return (angles.cos() * factor).repeat(1, 2).to(device), (angles.sin() * factor).to(device)


def plain_rotation(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Each pair of `x` (B, H, T, D) rotated by its angle; `cos` and `sin` are (B or 1, 1, T, D/2)."""
    left, right = x.chunk(2, dim=-1)
    return torch.cat([left * cos - right * sin, right * cos + left * sin], dim=-1)


def split_rotated(qkv: Tensor, n_heads: int, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries and keys rotated by their positions' angles, and values, each with its heads before the positions.

    Args:
        qkv: (B, T, H + 2 K, D), any floating type: the heads of queries, keys and values side by side.
        n_heads: number of query heads, H.
        cos: (B or 1, 1, T, D) float32.
        sin: (B or 1, 1, T, D/2) float32.

    Returns:
        (B, H, T, D), (B, K, T, D) and (B, K, T, D), contiguous, in the type of `qkv`.
    """
    q, k, v = _SplitRotated.apply(qkv, n_heads, cos, sin)  # type: ignore[no-untyped-call]
    return q, k, v


class _SplitRotated(torch.autograd.Function):
    """As `split_rotated`; the gradient is the inverse rotation, written into one tensor (B, T, H + 2 K, D)."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, n_heads: int, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(cos, sin)
        n_kv_heads = (qkv.shape[2] - n_heads) // 2
        # Views of `qkv` would keep all of it for the backward pass.
        parts = [(part, part.new_empty(part.shape)) for part in _by_head(qkv, n_heads, n_kv_heads)]
        for part, rotated in parts[:2]:
            _rotate(part, cos, sin, out=rotated)
        return parts[0][1], parts[1][1], parts[2][1].copy_(parts[2][0])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        cos, sin = ctx.saved_tensors
        B, H, T, D = grads[0].shape
        K = grads[1].shape[1]
        d_qkv = torch.empty(B, T, H + 2 * K, D, dtype=grads[2].dtype, device=grads[2].device)
        d_q, d_k, d_v = _by_head(d_qkv, H, K)
        _rotate(grads[0], cos, -sin, out=d_q)
        _rotate(grads[1], cos, -sin, out=d_k)
        d_v.copy_(grads[2])
        return d_qkv, None, None, None


def _by_head(qkv: Tensor, n_heads: int, n_kv_heads: int) -> tuple[Tensor, ...]:
    """Views of (B, T, H + 2 K, D) with the heads first: (B, H, T, D), (B, K, T, D) and (B, K, T, D)."""
    return torch.split(qkv.transpose(1, 2), [n_heads, n_kv_heads, n_kv_heads], dim=1)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor, out: Tensor) -> None:
    """Write `x` (B, H, T, D), rotated in float32, to `out`; `cos` (B or 1, 1, T, D), `sin` (B or 1, 1, T, D/2)."""
    x = x.float()
    rotated = out if out.dtype == x.dtype else torch.empty_like(x)
    torch.mul(x, cos, out=rotated)
    (left, right), (out_left, out_right) = x.chunk(2, dim=-1), rotated.chunk(2, dim=-1)
    out_left.addcmul_(right, sin, value=-1)
    out_right.addcmul_(left, sin)
    if rotated is not out:
        out.copy_(rotated)
