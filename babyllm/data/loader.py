"""The loader: one global count of consumed rows -> the micro-batches of a step on this rank.

row r of the run -> epoch r // n, index r % n -> shuffled by (seed, epoch) -> window --+
                 -> phase -> domain, index within it -> shuffled -> window ------------+-> this rank's share -> Batch
                 -> step -> competence -> one of the rows that are easy enough --------+

The global batch does not depend on the number of ranks, the micro-batch size or prefetching. A rank takes its
contiguous part of it.
"""

from __future__ import annotations

import queue
import threading
import weakref
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from babyllm.data.batch import Batch
from babyllm.data.order.shuffle import Order
from babyllm.data.row_config import Share
from babyllm.errors import UserError
from babyllm.model.cross_entropy import IGNORE

if TYPE_CHECKING:
    from babyllm.data.order.competence import Competence

PREFETCH_STEPS = 2
_ORDERED_BY = ("curriculum", "vocabulary")


@dataclass(frozen=True)
class _Reader:
    """Reads the batches of a step; holds all that the prefetching thread needs."""

    order: Order
    share: Share
    pin_memory: bool

    def step(self, first_row: int) -> list[Batch]:
        """This rank's micro-batches of the global batch that begins at `first_row`."""
        step = range(first_row, first_row + self.share.global_batch)
        return [self._batch(rows, step) for rows in self.share.micro_batches(first_row)]

    def _batch(self, rows: NDArray[np.int64], step: range) -> Batch:
        read = self.order.rows(rows)
        of_rows = {"token": (read["targets"] != IGNORE).reshape(len(rows), -1).sum(1), **read.units}
        if read.lengths is not None:
            of_rows["input"] = read.lengths.reshape(len(rows), -1).sum(1)
        units = {name: int(counts.sum()) for name, counts in of_rows.items()}
        # Hardware is faster at a width that is a multiple of 8.
        tensors = {name: torch.from_numpy(array) for name, array in read.trimmed(8).items()}
        if self.pin_memory:
            tensors = {name: tensor.pin_memory() for name, tensor in tensors.items()}
        row_units = {name: torch.from_numpy(counts) for name, counts in of_rows.items()}
        return Batch(tensors, units, step, row_units if self.share.is_automatic else None)


_Ahead = queue.Queue[list[Batch] | BaseException]


def _read_ahead(reader: _Reader, row: int, ahead: _Ahead, stop: threading.Event) -> None:
    while not stop.is_set():
        try:
            item: list[Batch] | BaseException = reader.step(row)
        except BaseException as e:
            item = e
        while not stop.is_set():
            try:
                ahead.put(item, timeout=0.2)
                break
            except queue.Full:
                continue
        row += reader.share.global_batch


def _end(thread: threading.Thread, ahead: _Ahead, stop: threading.Event) -> None:
    """End the thread; a process that exits before its thread could crash while the thread releases a batch."""
    stop.set()
    with suppress(queue.Empty):
        while True:
            ahead.get_nowait()  # the thread may be waiting for a free slot
    if thread is not threading.current_thread():
        thread.join()


class Loader:
    """An endless iterator over the micro-batches of each step, prefetched by one thread that ends with the loader.

    Args:
        order: order of the rows.
        share: this rank's share of each global batch.
        seed: seed of the order.
        fingerprint: hash of the data, stored with the position and compared when a position is loaded.
        pin_memory: whether batches are in pinned memory, which CUDA copies asynchronously.
        scored: curriculum that is, or is in, `order`, and whose difficulty `renew` replaces; None for none.
    """

    def __init__(
        self,
        order: Order,
        share: Share,
        seed: int,
        fingerprint: str = "",
        pin_memory: bool = False,
        scored: Competence | None = None,
    ) -> None:
        self._reader, self._scored = _Reader(order, share, pin_memory), scored
        self._scores: Tensor | None = None
        self._made_of = {"fingerprint": fingerprint, "seed": seed}
        self._consumed = 0
        self._left_out: list[list[int]] = []
        self._ahead: _Ahead | None = None
        self._end: weakref.finalize[..., Loader] | None = None

    def __iter__(self) -> Iterator[list[Batch]]:
        return self

    def __next__(self) -> list[Batch]:
        if self._ahead is None:
            self._ahead, stop = queue.Queue(PREFETCH_STEPS), threading.Event()
            # The thread does not hold the loader: one that nobody uses any more is collected, and ends its thread.
            arguments = (self._reader, self._consumed, self._ahead, stop)
            thread = threading.Thread(target=_read_ahead, args=arguments, daemon=True)
            self._end = weakref.finalize(self, _end, thread, self._ahead, stop)
            thread.start()
        item = self._ahead.get()
        if isinstance(item, BaseException):
            self.close()  # a caller that continues reads the same rows again
            raise item
        self._consumed += self._reader.share.global_batch
        return item

    def metrics(self) -> dict[str, float]:
        """Epochs of each domain so far; for a mixture also the tokens per row."""
        return self._reader.order.metrics(self._consumed)

    def leave_out(self, row: int) -> None:
        """Skip to a later row; the rows before it are never returned, and are recorded in `state_dict`."""
        self.close()
        self._left_out.append([self._consumed, row])
        self._consumed = row

    def renew(self, scores: Tensor | None) -> None:
        """Order the rows that follow by new scores, (n,) on the CPU, greater for harder rows; None for none yet."""
        self.close()
        self._scores = scores
        if self._scored:
            self._scored.renew(None if scores is None else scores.numpy())

    def state_dict(self) -> dict[str, Any]:
        """The number of rows returned or left out, over all ranks, and the settings that decided their order.

        If rows were left out, "left_out" lists them as ranges [first, end). The scores of `renew` are "scores".
        """
        left_out = {"left_out": [list(stretch) for stretch in self._left_out]} if self._left_out else {}
        scores = {} if self._scores is None else {"scores": self._scores}
        return {"consumed_rows": self._consumed, **left_out, **scores, **self._identity(self._consumed)}

    def _identity(self, consumed: int) -> dict[str, Any]:
        return self._made_of | self._reader.order.identity(consumed)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue after a stored position.

        Raises:
            UserError: the position belongs to other data, another row length, another seed, or a mixture that differs
                in the rows consumed so far.
        """
        consumed = int(state["consumed_rows"])
        identity = self._identity(consumed)
        if state.get("stages") != identity.get("stages"):
            raise UserError(
                f"data.mix, interleave, concat or stages: the {consumed} sequences trained on so far were mixed in "
                "another way; keep the stages that have begun (an until that is a share moves with plan.steps; later "
                "stages may change), or choose another --run_dir"
            )
        for name in _ORDERED_BY:
            if state.get(name) != identity.get(name):
                raise UserError(
                    f"data.{name}: the {consumed} sequences trained on so far were ordered in another way; keep its "
                    "settings and files (a step that is a share moves with plan.steps), or choose another --run_dir"
                )
        for name, mine in identity.items():
            if state.get(name) != mine:
                raise UserError(
                    f"the run was made with other data (data {name} {state.get(name)}, now {mine}); point --data.path "
                    "at the same data, keep --data.seq_len, --data.seed and a mixture's --data.global_batch, or choose "
                    "another --run_dir"
                )
        self.close()
        self._consumed = consumed
        self._left_out = [list(stretch) for stretch in state.get("left_out", [])]
        self.renew(state.get("scores"))

    def close(self) -> None:
        """Stop prefetching."""
        if self._end:
            self._end()
        self._ahead = None
