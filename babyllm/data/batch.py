"""What a loss gets: tensors by name, and how many units its sums are over."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor


@dataclass
class Batch:
    """One micro-batch.

    Attributes:
        tensors: by name: "tokens", "targets" and, when asked for, "positions" and "documents", each (B, T) int64.
        units: what losses are sums over, for example {"token": 8191}.
        rows: numbers of the rows of the step's global batch, of which it holds a part.
    """

    tensors: dict[str, Tensor]
    units: dict[str, int] = field(default_factory=dict)
    rows: range = range(0)

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def to(self, device: torch.device) -> Batch:
        """The same batch on `device`; the copy does not wait when the memory is pinned."""
        return Batch({k: v.to(device, non_blocking=True) for k, v in self.tensors.items()}, self.units, self.rows)


class Stream(Protocol):
    """Batches without end, and a position that can be stored."""

    def __iter__(self) -> Iterator[list[Batch]]:
        """Itself."""
        ...

    def __next__(self) -> list[Batch]:
        """The micro-batches of one optimizer step on this rank."""
        ...

    def metrics(self) -> dict[str, float]:
        """Numbers about the position that are worth a curve, the same on every rank."""
        ...

    def leave_out(self, row: int) -> None:
        """Go on at a row further on; those before it are not handed out."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """The position after the last step handed out: JSON values and tensors, the same on every rank."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on after a stored position."""
        ...
