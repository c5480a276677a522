"""Seeds as pure functions of integers."""

from __future__ import annotations

import hashlib

from babyllm.errors import UserError


def derive_seed(*keys: int) -> int:
    """A seed in 0 .. 2**63-1 that depends on every key and on their order.

    Args:
        keys: signed 64-bit integers, such as (seed, step, rank, micro-batch).

    Raises:
        UserError: a key needs more bits.
    """
    if too_large := [key for key in keys if not -(2**63) <= key < 2**63]:
        raise UserError(f"seed {too_large[0]}: must fit into 64 bits, from -2**63 to 2**63 - 1")
    digest = hashlib.blake2b(b"".join(key.to_bytes(8, "little", signed=True) for key in keys), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def seed_all(seed: int, *keys: int) -> None:
    """Seed torch's generators on CPU and GPU from integers alone, so that dropout is the same after a resume."""
    import torch

    torch.manual_seed(derive_seed(seed, *keys))
