"""Weights in 8 bits: each row of a matrix as whole numbers from -127 to 127, times one scale of its own.

weight (O, I) -> quantise -> int8 (O, I), scale (O,) bfloat16 -> dequantise -> (O, I)

Dettmers et al. 2022 (LLM.int8()), section 2.1, by rows and for weights alone; a weight takes a little more than a byte.
"""

from __future__ import annotations

import torch
from torch import Tensor

_LARGEST = 127
_PART = 1 << 20  # weights that are quantised at a time


def quantise(weight: Tensor) -> tuple[Tensor, Tensor]:
    """A weight rounded to multiples of its rows' scales.

    Args:
        weight: (O, I) of any floating type.

    Returns:
        The multiples (O, I) int8, and the scales (O,) bfloat16, the type in which products with it are computed.
    """
    steps = torch.empty(weight.shape, dtype=torch.int8, device=weight.device)
    scale = torch.empty(len(weight), dtype=torch.bfloat16, device=weight.device)
    if weight.is_meta:
        return steps, scale
    # In parts, so that intermediate results take little memory beside the result.
    n_rows = max(1, _PART // weight.shape[1])
    parts = (torch.split(tensor, n_rows) for tensor in (weight.detach(), steps, scale))
    for part, steps_part, scale_part in zip(*parts, strict=True):
        rows = part.float()
        scale_part.copy_(rows.abs().amax(dim=1) / _LARGEST)
        # A row of zeros has no scale to divide by; the largest weight may be just above 127 rounded scales.
        exact = rows / scale_part.float().where(scale_part > 0, 1.0).unsqueeze(1)
        steps_part.copy_(exact.round_().clamp_(-_LARGEST, _LARGEST))
    return steps, scale


def dequantise(steps: Tensor, scale: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """The weight that `quantise` rounded: int8 (O, I) and bfloat16 (O,) -> (O, I) in `dtype`."""
    return steps.to(dtype) * scale.to(dtype).unsqueeze(1)
