"""The logits of a chunk of tokens, so many that they fit into a cache, and only of the tokens that are allowed.

hidden (N, D), weight (V, D) -> chunks of N -> logits (C, V), minus infinity where a token is not allowed

Legend: N tokens, C tokens of one chunk, D model width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

CHUNK_BYTES = {"cpu": 4 << 20, "cuda": 256 << 20, "mps": 64 << 20}
"""Bytes of fp32 logits held at once, by device: few enough for a CPU's cache, enough to keep an accelerator busy."""

FEWEST_ROWS = 256
"""Tokens of a chunk at least: with fewer, reading the weight takes longer than multiplying by it."""


def chunks(n: int, vocab_size: int, device: str) -> Iterator[slice]:
    """Slices of `n` tokens whose fp32 logits take about `CHUNK_BYTES`, but `FEWEST_ROWS` tokens at least."""
    rows = CHUNK_BYTES.get(device, CHUNK_BYTES["cuda"]) // (4 * vocab_size)
    rows = max(FEWEST_ROWS, rows // 64 * 64)
    for first in range(0, n, rows):
        yield slice(first, min(n, first + rows))


def chunk_logits(hidden: Tensor, weight: Tensor, allowed: Tensor | None, part: slice) -> Tensor:
    """The logits (C, V) of a chunk.

    Args:
        hidden: (N, D), the final hidden states.
        weight: (V, D), the output layer.
        allowed: (N, ceil(V / 8)) uint8, the tokens that are possible at each place; None for all. Bit j of byte i
            (`numpy.packbits` with bitorder "little") stands for token 8 i + j. At least one is possible everywhere.
        part: the C places of the chunk.
    """
    logits = F.linear(hidden[part], weight)
    if allowed is None:
        return logits
    powers = 1 << torch.arange(8, dtype=torch.uint8, device=logits.device)
    is_forbidden = (allowed[part].unsqueeze(-1) & powers).eq(0).flatten(1)[:, : len(weight)]
    return logits.masked_fill_(is_forbidden, -torch.inf)
