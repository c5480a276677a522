"""Vectors of several kinds, and the plain algorithms that the fast ones are compared with."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

KINDS = ("spread", "grid", "equal", "clusters", "narrow", "half")


def vectors(kind: str, n: int = 500, width: int = 12) -> NDArray[np.float32]:
    """(n, width) float32 vectors, float16 for "half"; many distances of "grid" and all of "equal" are the same."""
    rng = np.random.default_rng(n + width)
    spread = rng.standard_normal((n, width))
    values = {
        "spread": spread,
        "half": spread,
        "grid": rng.integers(1, 4, (n, width)),
        "equal": np.full((n, width), 0.1),
        "clusters": 9 * spread[rng.integers(0, 8, n)] + 0.01 * spread,
        "narrow": spread[:, :2] @ spread[:2] + 5000 * spread[0],
    }[kind]
    return values.astype(np.float16 if kind == "half" else np.float32)


def directions(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """The vectors over their lengths, in float32."""
    wide = values.astype(np.float64)
    return (wide / np.sqrt((wide * wide).sum(axis=1, keepdims=True))).astype(np.float32)


def plain_squares(values: NDArray[np.float32], row: NDArray[np.float32]) -> NDArray[np.float64]:
    """(n,) squared distances to one vector."""
    differences = values.astype(np.float64) - row.astype(np.float64)
    return (differences * differences).sum(axis=1)


def plain_k_center(
    values: NDArray[np.float32], k: int, first: int = 0, chosen: Sequence[int] = ()
) -> tuple[list[int], list[float]]:
    """Algorithm 1 of Sener and Savarese 2018 as it is written: centres, and the squared radius after each."""
    nearest = np.full(len(values), np.inf)
    taken: list[int] = []
    radii: list[float] = []
    queue = list(chosen)
    while len(taken) < k + len(chosen):
        centre = queue.pop(0) if queue else (first if not taken else int(nearest.argmax()))
        taken.append(centre)
        nearest = np.minimum(nearest, plain_squares(values, values[centre]))
        nearest[taken] = -1
        radii.append(max(float(nearest.max()), 0.0))
    return taken[len(chosen) :], radii[len(chosen) :]
