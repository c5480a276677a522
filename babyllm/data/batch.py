"""The input of a loss: tensors by name, and the number of units that its sums run over."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor


@dataclass
class Batch:
    """One micro-batch.

    Attributes:
        tensors: tensors by name, each (B, T), or (B, 2, T) for pairs. "tokens" and "targets" are int64 ids. Where the
            rows have them: "positions", "documents" and "channels", int64, "weights", float32, and "lengths", (B,) or
            (B, 2) int64, the inputs of each row that are not padding.
        units: number of each unit that losses sum over, for example {"token": 8191}.
        rows: numbers of the rows of the step's global batch, of which this micro-batch holds a part.
        row_units: number of each unit in each row, (B,) int64 on the CPU, for a micro-batch that may be cut where it
            does not fit the device; units not named are 0 in every row. None: it may not be cut.
    """

    tensors: dict[str, Tensor]
    units: dict[str, int] = field(default_factory=dict)
    rows: range = range(0)
    row_units: dict[str, Tensor] | None = None

    def __len__(self) -> int:
        """The number of its rows, B."""
        return len(next(iter(self.tensors.values())))

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def to(self, device: torch.device) -> Batch:
        """The same batch on `device`; the copy is asynchronous where the memory is pinned."""
        return replace(self, tensors={k: v.to(device, non_blocking=True) for k, v in self.tensors.items()})

    def cut(self, n_rows: int) -> list[Batch]:
        """The same rows in batches of at most `n_rows`; its `row_units` must be known if it has more."""
        if len(self) <= n_rows:
            return [self]
        pieces = [slice(i, i + n_rows) for i in range(0, len(self), n_rows)]
        return [self._piece(piece, self.row_units or {}) for piece in pieces]

    def _piece(self, piece: slice, row_units: dict[str, Tensor]) -> Batch:
        tensors = {name: tensor[piece] for name, tensor in self.tensors.items()}
        mine = {name: counts[piece] for name, counts in row_units.items()}
        units = {name: int(mine[name].sum()) if name in mine else 0 for name in self.units}
        return Batch(tensors, units, self.rows, mine)


class RankRows(NamedTuple):
    """A tensor in a stream's state whose first axis is this rank's part of the global batch.

    Attributes:
        tensor: rows of this rank, (n, ...) of any dtype; shape and dtype are the same on every rank.
    """

    tensor: Tensor


class Stream(Protocol):
    """An endless stream of batches, with a position that can be stored.

    A state consists of JSON values, tensors and `RankRows`, nested in dicts with text keys and in lists. JSON values
    and plain tensors are the same on every rank. `RankRows` differ: a checkpoint joins them in rank order. On loading,
    every rank receives all rows as one plain tensor (N, ...) with N = world_size * n, and takes its own: rank r of w
    takes rows r * N / w up to (r + 1) * N / w. So a run can resume with another number of ranks.
    """

    def __iter__(self) -> Iterator[list[Batch]]:
        """The stream itself."""
        ...

    def __next__(self) -> list[Batch]:
        """The micro-batches of one optimizer step on this rank."""
        ...

    def metrics(self) -> dict[str, float]:
        """Numbers by name about the position, to be plotted over the run; the same on every rank."""
        ...

    def leave_out(self, row: int) -> None:
        """Skip to a later row; the rows before it are never returned."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """The position after the last step that was returned; every rank calls it at the same step."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue after a stored position, in which the `RankRows` of all ranks are one plain tensor."""
        ...
