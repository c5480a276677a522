"""The loader: one global count of consumed rows -> the micro-batches of a step on this rank.

row r of the run -> epoch r // n, place r % n -> shuffled by (seed, epoch) -> window -.
                 -> stage -> domain and its how manyth row -> shuffled -> window ------+-> this rank's share -> Batch

The global batch is the same for any number of ranks, micro-batch size or prefetching; a rank takes its contiguous part.
"""

from __future__ import annotations

import queue
import threading
import weakref
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from babyllm.data.batch import Batch
from babyllm.data.order.shuffle import Order
from babyllm.data.row_config import Share
from babyllm.errors import UserError
from babyllm.model.cross_entropy import IGNORE

PREFETCH_STEPS = 2


@dataclass(frozen=True)
class _Reader:
    """Makes batches: all that reading ahead needs to know."""

    order: Order
    share: Share
    pin_memory: bool

    def step(self, first_row: int) -> list[Batch]:
        """This rank's micro-batches of the global batch that begins at `first_row`."""
        step = range(first_row, first_row + self.share.global_batch)
        return [self._batch(rows, step) for rows in self.share.micro_batches(first_row)]

    def _batch(self, rows: NDArray[np.int64], step: range) -> Batch:
        read = self.order.rows(rows)
        units = {"token": int((read["targets"] != IGNORE).sum())}
        units |= {name: int(counts.sum()) for name, counts in read.units.items()}
        if read.lengths is not None:
            units["input"] = int(read.lengths.sum())
        # A round width suits the hardware.
        tensors = {name: torch.from_numpy(array) for name, array in read.trimmed(8).items()}
        if self.pin_memory:
            tensors = {name: tensor.pin_memory() for name, tensor in tensors.items()}
        return Batch(tensors, units, step)


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
    """End the thread; a process that ended before it could crash while the thread lets go of a batch."""
    stop.set()
    with suppress(queue.Empty):
        while True:
            ahead.get_nowait()  # it may be waiting for room
    if thread is not threading.current_thread():
        thread.join()


class Loader:
    """Batches without end from rows in their order, read ahead by one thread, which ends with the loader.

    Args:
        order: which row comes when.
        share: which of them are this rank's.
        seed: of the order.
        fingerprint: of the data, stored with the position and compared when it is loaded.
        pin_memory: whether batches are pinned for a copy to CUDA that does not wait.
    """

    def __init__(self, order: Order, share: Share, seed: int, fingerprint: str = "", pin_memory: bool = False) -> None:
        self._reader = _Reader(order, share, pin_memory)
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
            # The thread knows nothing of the loader, so that it ends with a loader nobody needs any more.
            arguments = (self._reader, self._consumed, self._ahead, stop)
            thread = threading.Thread(target=_read_ahead, args=arguments, daemon=True)
            self._end = weakref.finalize(self, _end, thread, self._ahead, stop)
            thread.start()
        item = self._ahead.get()
        if isinstance(item, BaseException):
            self.close()  # whoever goes on reads the same rows again
            raise item
        self._consumed += self._reader.share.global_batch
        return item

    def metrics(self) -> dict[str, float]:
        """How often each domain has been gone through so far; of a mixture also the length of rows."""
        return self._reader.order.metrics(self._consumed)

    def leave_out(self, row: int) -> None:
        """Go on at a row further on; those before it are not handed out, and are noted in `state_dict`."""
        self.close()
        self._left_out.append([self._consumed, row])
        self._consumed = row

    def state_dict(self) -> dict[str, Any]:
        """How many rows were handed out or left out, over all ranks, and what decided them.

        If some were left out, "left_out" has the first row of each stretch and the one after its last.
        """
        left_out = {"left_out": [list(stretch) for stretch in self._left_out]} if self._left_out else {}
        return {"consumed_rows": self._consumed, **left_out, **self._identity(self._consumed)}

    def _identity(self, consumed: int) -> dict[str, Any]:
        return self._made_of | self._reader.order.identity(consumed)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on after a stored position.

        Raises:
            UserError: it belongs to other data, rows of another length, another seed or, as far as it has come,
                another mixture.
        """
        consumed = int(state["consumed_rows"])
        identity = self._identity(consumed)
        if state.get("stages") != identity.get("stages"):
            raise UserError(
                f"data.mix, interleave, concat or stages: the {consumed} sequences trained on so far were mixed in "
                "another way; keep what has begun as it was (a share until moves with plan.steps; later stages may "
                "change), or choose another --run_dir"
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

    def close(self) -> None:
        """Stop reading ahead."""
        if self._end:
            self._end()
        self._ahead = None
