"""Keys and values of the tokens a model has already read, in tensors allocated once.

Legend: B batch, T new time, S all time so far, K kv heads, W width of a head.
"""

from __future__ import annotations

import torch
from torch import Tensor

from babyllm.errors import UserError
from babyllm.model.config import ModelConfig


class LayerCache:
    """The part of a `KVCache` that belongs to one layer."""

    def __init__(self, keys: Tensor, values: Tensor, length: int) -> None:
        self.keys, self.values, self.length = keys, values, length

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store (B, K, T, W) behind what is there; returns all keys and values, (B, K, S, W).

        Raises:
            UserError: there is no room for them.
        """
        end, size = self.length + k.shape[2], self.keys.shape[2]
        if end > size:
            raise UserError(f"the cache of {size} tokens is full: ask for fewer tokens or give a larger cache")
        self.keys[:, :, self.length : end] = k
        self.values[:, :, self.length : end] = v
        return self.keys[:, :, :end].to(k.dtype), self.values[:, :, :end].to(v.dtype)


class KVCache:
    """Room for the keys and values of `size` tokens in each of `batch` sequences.

    Args:
        config: the model's shape.
        batch: sequences.
        size: tokens per sequence, prompt and answer together.
        device: where the model is.
        dtype: type of the stored numbers, the one the model computes in.
    """

    def __init__(
        self,
        config: ModelConfig,
        batch: int,
        size: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        shape = (config.n_layers, batch, config.kv_heads, size, config.head_dim)
        self._keys = torch.empty(shape, device=device, dtype=dtype)
        self._values = torch.empty(shape, device=device, dtype=dtype)
        self.length = 0

    def layer(self, index: int) -> LayerCache:
        """The view of layer `index` at the current length."""
        return LayerCache(self._keys[index], self._values[index], self.length)
