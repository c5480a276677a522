"""What a loss gets: tensors by name, and how many units its sums are over."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

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


class RankRows(NamedTuple):
    """A tensor in a stream's state whose first axis is this rank's part of the global batch.

    Attributes:
        tensor: (n, ...), any dtype; n, the other axes and the dtype are the same on every rank.
    """

    tensor: Tensor


class Stream(Protocol):
    """Batches without end, and a position that can be stored.

    A state is JSON values, tensors and `RankRows`, nested in dicts with text keys and in lists. JSON values and plain
    tensors are the same on every rank. `RankRows` differ: a checkpoint joins them in the order of the ranks. Loading
    hands every rank the whole, a plain tensor (N, ...) with N = world_size * n, of which the rank takes its own rows:
    rank r of w has rows r * N / w up to (r + 1) * N / w. So a run can go on with another number of ranks.
    """

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
        """The position after the last step handed out; called by every rank at the same step."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on after a stored position, in which all rows of `RankRows` are a plain tensor."""
        ...
