"""The memory that a step holds, counted as the step takes and frees it; what it held at its peak is kept by part.

take("activations", bytes) -> Held -> free(held); peak: bytes by part when their sum was greatest
"""

from __future__ import annotations

from typing import Literal, NamedTuple

Part = Literal[
    "weights", "gradients", "optimizer", "average", "activations", "logits", "workspace", "communication", "process"
]

PARTS: dict[Part, str] = {
    "weights": "the model, with a frozen base as it is stored",
    "gradients": "of the trained weights",
    "optimizer": "moments of the trained weights",
    "average": "moving average of the weights",
    "activations": "what the forward pass keeps for the backward pass, and what both hold briefly",
    "logits": "the output layer: chunks of logits, and the gradients of its inputs and weights",
    "workspace": "weights side by side, restored or in the products' type, and tensors of the optimizer's step",
    "communication": "weights gathered from other ranks, and gradients on their way",
    "process": "Python, PyTorch and the device's libraries",
}


class Held(NamedTuple):
    """Memory that was taken and is to be freed."""

    part: Part
    n_bytes: float


class Ledger:
    """Bytes held now, by part, and those held when their sum was greatest."""

    def __init__(self) -> None:
        self._now: dict[Part, float] = dict.fromkeys(PARTS, 0.0)
        self._total = self._most = 0.0
        self._peak = dict(self._now)

    def take(self, part: Part, n_bytes: float) -> Held:
        """Hold `n_bytes` more."""
        self._now[part] += n_bytes
        self._total += n_bytes
        if self._total > self._most:
            self._most, self._peak = self._total, dict(self._now)
        return Held(part, n_bytes)

    def free(self, *held: Held | None) -> None:
        """Free what was taken; None is nothing."""
        for one in held:
            if one is not None:
                self._now[one.part] -= one.n_bytes
                self._total -= one.n_bytes

    def touch(self, part: Part, n_bytes: float) -> None:
        """Take and free at once: what is held for a moment, while nothing else changes."""
        self.free(self.take(part, n_bytes))

    @property
    def peak(self) -> dict[Part, float]:
        """Bytes by part at the moment when their sum was greatest."""
        return dict(self._peak)
