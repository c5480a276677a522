"""Random numbers that belong to texts: the same in any order, in any partition and on any machine."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np

from babyllm.ragged import GOLDEN, U64, mix
from babyllm.selection.numeric.vectors import F64


def text_keys(texts: Iterable[str]) -> U64:
    """(n,) uint64, the first 8 bytes, little-endian, of the BLAKE2b hash of each text or id in UTF-8."""
    digests = [hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest() for text in texts]
    return np.frombuffer(b"".join(digests), "<u8").astype(np.uint64)


def uniform(keys: U64, seed: int) -> F64:
    """(n,) float64 numbers in (0, 1), each a function of its (n,) uint64 key and the seed."""
    start = mix(np.array([seed & 0xFFFFFFFFFFFFFFFF], np.uint64) + GOLDEN)
    bits = mix((keys ^ start) + GOLDEN) >> np.uint64(12)
    return np.asarray((bits + 0.5) / 2.0**52)
