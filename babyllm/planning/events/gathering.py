"""What fully_shard gathers before a group of parameters is used, and sums over ranks after their gradients are there.

Groups are the blocks, embedding and output layer unless they are tied, and the rest (`babyllm.parallel.sharding`). A
group is gathered into a buffer and copied from it to its parameters; the buffer is freed when the next group is
gathered. In the backward pass the next group is gathered ahead. Gradients are copied to a buffer, which is freed when
the next ones are summed.
"""

from __future__ import annotations

from babyllm.planning.events.ledger import Held, Ledger
from babyllm.planning.job import Job

NOTHING = Held("communication", 0)


class Gathering:
    """The events of one group after another; nothing happens where the model is not divided.

    Attributes:
        is_on: whether the model is divided.
    """

    def __init__(self, job: Job, ledger: Ledger) -> None:
        self._job, self._ledger = job, ledger
        self.is_on = job.parallel.shard != "none" and job.ranks > 1
        self._buffer = self._ahead = self._summed = NOTHING

    @property
    def keeps_blocks(self) -> bool:
        """Whether blocks stay gathered between the passes, or are not divided at all."""
        return not self.is_on or self._job.parallel.shard == "zero2"

    def gather(self, n_bytes: float) -> Held:
        """A group in the forward pass; returns its whole parameters."""
        if not self.is_on:
            return NOTHING
        buffer = self._into_buffer(n_bytes)
        whole = self._ledger.take("communication", n_bytes)
        self._ledger.free(self._buffer)
        self._buffer = buffer
        return whole

    def _into_buffer(self, n_bytes: float) -> Held:
        buffer = self._ledger.take("communication", n_bytes)
        if self._job.device == "cpu":
            self._ledger.touch("communication", n_bytes)  # gloo gathers into memory of its own
        return buffer

    def end_forward(self) -> None:
        """The forward pass is over."""
        self._ledger.free(self._buffer)
        self._buffer = NOTHING

    def gather_ahead(self, n_bytes: float) -> None:
        """Begin to gather the group that the backward pass uses next."""
        if self.is_on and not self.keeps_blocks:
            self._ahead = self._into_buffer(n_bytes)

    def use_ahead(self, n_bytes: float) -> Held:
        """The group that was gathered ahead; returns its whole parameters."""
        whole = self._ledger.take("communication", n_bytes)
        self._ledger.free(self._ahead)
        self._ahead = NOTHING
        return whole

    def sum_gradients(self, whole: Held, gradients: list[Held], last: Held | None) -> list[Held]:
        """A group's gradients are summed over ranks when its parameters are freed.

        Args:
            whole: the group's whole parameters.
            gradients: the group's gradients.
            last: that of its last parameter, which is freed after the sum.

        Returns:
            This rank's part of the gradients.
        """
        if not self.is_on:
            return gradients
        ledger, n_bytes = self._ledger, sum(held.n_bytes for held in gradients)
        ledger.free(whole, self._summed)
        self._summed = ledger.take("communication", n_bytes)
        ledger.free(*(held for held in gradients if held is not last))
        part = ledger.take("gradients", 0 if self._job.is_outside else n_bytes / self._job.shards)
        if self._job.device == "cpu":
            ledger.touch("communication", n_bytes)  # gloo sums a copy
        ledger.free(last)
        return [part]

    def end_backward(self) -> None:
        """The backward pass is over."""
        self._ledger.free(self._summed)
        self._summed = NOTHING
