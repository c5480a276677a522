"""Which of two results on held-out data is better, by the name of the result."""

from __future__ import annotations

_LOWER = ("loss", "bpb")  # the last words of results of which a lower one is better


def is_better(name: str, value: float, other: float) -> bool:
    """Whether a value of a result is better than another: a lower loss, or a higher accuracy."""
    return value < other if is_lower_better(name) else value > other


def is_lower_better(name: str) -> bool:
    """Whether a lower value of a result is better, by its name, such as "zh/bpb"."""
    return name.endswith(_LOWER)
