"""Four-bit NormalFloat: 16 values, at equal shares of a normal distribution, times one scale for every 64 weights.

weight (out, in) -> quantise -> packed (out * in / 2) uint8, absmax (out * in / 64) float32 -> dequantise -> (out, in)

absmax -> quantise_scales -> numbers of steps (n,) int8, steps (n / 256) float32, mean -> restored_scales -> absmax

Dettmers et al. 2023 (QLoRA), section 3 and appendix E. With scales in float32 a weight takes 0.5625 bytes, with scales
in 8 bits (double quantisation) 0.5159.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

BLOCK = 64
"""Weights that share a scale."""

SCALE_BLOCK = 256
"""Scales that share a step, where they are quantised themselves."""

_MOST_STEPS = 127
_PART = 1 << 20  # weights that are quantised at a time

VALUES = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
    *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
    *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)


def quantise(weight: Tensor) -> tuple[Tensor, Tensor]:
    """A weight as indices of the 16 values: the nearest to each weight over its block's largest magnitude.

    Args:
        weight: a tensor of any shape; its last block is filled up with zeros.

    Returns:
        packed: uint8, two indices a byte, the first in the upper half; as many as whole blocks take.
        absmax: float32, the largest magnitude of each block.
    """
    flat = weight.detach().flatten()
    n_blocks = math.ceil(len(flat) / BLOCK)
    packed = torch.empty(n_blocks * BLOCK // 2, dtype=torch.uint8, device=weight.device)
    absmax = torch.empty(n_blocks, device=weight.device)
    if weight.is_meta:
        return packed, absmax
    values = torch.tensor(VALUES, device=weight.device)
    borders = (values[1:] + values[:-1]) / 2
    # In parts, so that intermediate results take little memory beside the result.
    parts = torch.split(flat, _PART), torch.split(packed, _PART // 2), torch.split(absmax, _PART // BLOCK)
    for part, packed_part, absmax_part in zip(*parts, strict=True):
        blocks = F.pad(part.float(), (0, -len(part) % BLOCK)).view(-1, BLOCK)
        torch.amax(blocks.abs(), dim=1, out=absmax_part)
        # A block of zeros has no scale to divide by.
        scaled = blocks / absmax_part.where(absmax_part > 0, 1.0).unsqueeze(1)
        index = torch.zeros(scaled.shape, dtype=torch.uint8, device=weight.device)
        for border in borders:  # in a fraction of the time that a search for each weight takes (torch.bucketize)
            index += scaled > border
        first, second = index.view(-1, 2).unbind(dim=1)
        torch.bitwise_or(first << 4, second, out=packed_part)
    return packed, absmax


def quantise_scales(absmax: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Scales in 8 bits: their distances from their mean, since none is negative, as whole numbers of steps.

    Args:
        absmax: (n,) float32, from `quantise`.

    Returns:
        n_steps: (n,) int8, from -127 to 127.
        steps: (n / 256 rounded up,) float32, one for each block of scales.
        mean: (1,) float32.
    """
    if absmax.is_meta:
        n_blocks = math.ceil(len(absmax) / SCALE_BLOCK)
        return absmax.new_empty(len(absmax), dtype=torch.int8), absmax.new_empty(n_blocks), absmax.new_empty(1)
    mean = absmax.double().mean().float().view(1)  # in float64, so that its last bit does not depend on the order
    blocks = F.pad(absmax - mean, (0, -len(absmax) % SCALE_BLOCK)).view(-1, SCALE_BLOCK)
    steps = blocks.abs().amax(dim=1) / _MOST_STEPS
    n_steps = (blocks / steps.where(steps > 0, 1.0).unsqueeze(1)).round_().clamp_(-_MOST_STEPS, _MOST_STEPS)
    return n_steps.flatten()[: len(absmax)].to(torch.int8), steps, mean


def restored_scales(n_steps: Tensor, steps: Tensor, mean: Tensor) -> Tensor:
    """The scales (n,) float32 that `quantise_scales` rounded, none below zero."""
    return (n_steps.float() * steps.repeat_interleave(SCALE_BLOCK)[: len(n_steps)] + mean).clamp_(min=0)


def pair_table(device: torch.device) -> Tensor:
    """(256, 2) float32: the two values that each byte encodes, which `dequantise` looks up."""
    values = torch.tensor(VALUES, device=device)
    return torch.stack([values.repeat_interleave(16), values.repeat(16)], dim=1)


def dequantise(packed: Tensor, absmax: Tensor, table: Tensor, shape: torch.Size) -> Tensor:
    """The weight of `shape` that `quantise` rounded, in float32.

    Args:
        packed: (n,) uint8, two indices a byte.
        absmax: (2 n / 64,) float32, the largest magnitude of each block.
        table: (256, 2) float32, from `pair_table`.
        shape: shape of the weight, of at most 2 n elements.
    """
    blocks = table.index_select(0, packed.int()).view(-1, BLOCK) * absmax.unsqueeze(1)
    return blocks.flatten()[: shape.numel()].view(shape)
