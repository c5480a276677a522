"""Work of different length on each rank, in the midst of which ranks need each other.

rank 0   pass   pass   pass     arrives       before each part of a model, and before each sum, a round: ranks say what
rank 1   pass   arrives, serves pass, .....   they need, and all do what the rank needs that is furthest in its pass

So ranks need not make equally many passes: one that has arrived at a sum, or at the end of the work, takes part in the
rounds of the others until all have arrived. A rank that fails says so in its next round, and all end together.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from babyllm.errors import UserError
from babyllm.runtime import Runtime

_ARRIVED, _FAILED = -1, 1 << 32  # what a rank says instead of the number of a part


class _OtherFailed(Exception):
    """Another rank has failed."""


class Lockstep:
    """The rounds of this rank.

    Args:
        runtime: device and ranks, whose sums become rounds within `together`.
        serve: function that takes part in what other ranks need, given its number; every rank calls it at one time.
    """

    def __init__(self, runtime: Runtime, serve: Callable[[int], None]) -> None:
        self._runtime, self._serve = runtime, serve

    @property
    def is_on(self) -> bool:
        """Whether this is within `together`."""
        return self.arrive in self._runtime.before_sums

    @contextmanager
    def together(self, rescue: Callable[[], None] = lambda: None) -> Iterator[None]:
        """A body in which each rank works at its own pace; every rank must enter it, and they leave it together.

        Args:
            rescue: function that every rank calls if the body has failed on some rank, before the run ends.

        Raises:
            UserError: on rank 0, if the body has failed on another rank; the message names that rank.
            SystemExit: on further ranks, unless their own body has an error that is not for the user.
        """
        own: BaseException | None = None
        self._runtime.before_sums.append(self.arrive)
        try:
            yield
            self.arrive()
            return
        except _OtherFailed:
            pass
        except (Exception, SystemExit) as error:
            own = error
            self._meet(_FAILED + self._runtime.world_size - self._runtime.rank)
        finally:
            self._runtime.before_sums.remove(self.arrive)
        reasons = self._runtime.gather("" if own is None else f"({socket.gethostname()}): {_described(own)}")
        rescue()
        if own is not None and (self._runtime.is_main or not isinstance(own, UserError | SystemExit)):
            raise own
        if not self._runtime.is_main:
            raise SystemExit(1)
        rank, reason = next((rank, reason) for rank, reason in enumerate(reasons) if reason)
        raise UserError(f"rank {rank} {reason}")

    def need(self, number: int) -> None:
        """Return in the round in which every rank is about to do what has this number, without having done it."""
        while (found := self._round(number)) != number:
            self._serve(found)

    def arrive(self) -> None:
        """Take part in what other ranks need until every rank has arrived."""
        while (found := self._round(_ARRIVED)) != _ARRIVED:
            self._serve(found)

    def _round(self, mine: int) -> int:
        found = self._meet(mine)
        if found >= _FAILED:
            raise _OtherFailed
        return found

    def _meet(self, mine: int) -> int:
        """The largest number that a rank says."""
        import torch.distributed as dist

        said = torch.tensor(mine)
        dist.all_reduce(said, dist.ReduceOp.MAX)
        return int(said)


def _described(error: BaseException) -> str:
    """An error in one line."""
    text = " ".join(str(error).split())
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text}"
