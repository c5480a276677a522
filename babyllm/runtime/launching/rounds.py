"""Names for the rounds of a run under torchrun, whose store outlives the processes.

After a failure, or when a machine joins or leaves, torchrun starts new processes with the same store, in which those of
the round before have left their keys. So each round has a name, which precedes all of its keys:

    rank 0 chooses the name        <- knock/RANK = a random word of that rank
                                   -> answer/WORD = the name

Nobody reads the answer to a word of an earlier round. The counts in torchrun's environment are not enough: they stay
the same when a machine joins, and differ between machines that joined at different times.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from babyllm.errors import UserError
from babyllm.runtime.rendezvous import Store, Unanswered
from babyllm.runtime.signals import StopSignal

_LOOK_S = 0.05


def new_round() -> str:
    """A name for a round that begins, which rank 0 chooses."""
    return f"round/{uuid.uuid4().hex}"


@contextmanager
def admitted(store: Store, name: str, world_size: int) -> Iterator[None]:
    """Answer the other ranks that ask for the name of the round, while rank 0 waits for them in the body.

    Args:
        store: the store of all rounds, over a connection that nobody else uses.
        name: the name of the round.
        world_size: the number of ranks of the round.
    """
    is_over = threading.Event()

    def answer() -> None:
        answered: dict[int, bytes] = {}
        with suppress(RuntimeError):  # the store is gone, which the body will notice too
            while not is_over.wait(_LOOK_S):
                for rank in range(1, world_size):
                    if not store.check([f"knock/{rank}"]):
                        continue
                    word = store.get(f"knock/{rank}")
                    if answered.get(rank) != word:
                        store.set(f"answer/{word.decode()}", name)
                        answered[rank] = word

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join(timeout=1.0)


def found_round(store: Store, rank: int, who: str, timeout_s: float, stop: StopSignal) -> str:
    """The name of the round that rank 0 begins, asked for by another rank.

    Args:
        store: the store of all rounds.
        rank: the number of this process.
        who: this process, for messages.
        timeout_s: seconds to wait for rank 0.
        stop: the stop signal, which ends the waiting.

    Raises:
        UserError: rank 0 has not come.
        Unanswered: a stop signal came; what has ended the run reports it.
    """
    word, began = uuid.uuid4().hex, time.monotonic()
    store.set(f"knock/{rank}", word)
    while not store.check([f"answer/{word}"]):
        if stop.is_set:
            raise Unanswered
        if time.monotonic() - began > timeout_s:
            raise UserError(
                f"{who} could not meet the others within {timeout_s:g} s: rank 0 did not start; see what it says "
                "itself, or raise runtime.timeout_s"
            )
        time.sleep(_LOOK_S)
    return store.get(f"answer/{word}").decode()
