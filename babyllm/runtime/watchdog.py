"""The watchdog: names the rank that died or hangs, and ends the run, so that no rank waits for it without end.

    main thread       beat(step), patience()                   -> this rank's record
    exchange thread   record -> store -> everyone's records       may block: the store may live in another process
    judge thread      records -> verdict -> one line, exit status 1      never blocks

Collectives release the interpreter lock, so both threads run while the main thread waits inside one. Clocks of
different machines are never compared: a rank is silent when its record stops changing. The time between two looks
counts for at most twice the interval. So a rank that was suspended (SIGSTOP, SIGCONT) does not blame the others when it
wakes up.

Several ranks may come to a verdict, but only one reports it: the first to claim that in the store. Without a store it
is the lowest rank that still runs.
"""

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import torch.distributed as dist

from babyllm.errors import UserError
from babyllm.runtime.launching.processes import is_running, process_space
from babyllm.runtime.launching.program import tell
from babyllm.runtime.launching.verdict import (
    ACTIVE,
    BROKEN,
    DONE,
    PATIENT,
    RUNNING,
    STOPPING,
    Limits,
    Record,
    Seen,
    Verdict,
    record_key,
)
from babyllm.runtime.launching.verdict import cause as cause_of
from babyllm.runtime.launching.verdict import verdict as verdict_of
from babyllm.runtime.rendezvous import Store, answer
from babyllm.runtime.signals import StopSignal


def _collectives() -> int:
    # Private in PyTorch. Without it only steps tell ranks apart.
    count = getattr(dist.group.WORLD, "_get_sequence_number_for_group", None)
    return int(count()) if count else 0


class _ToldByAnother(Exception):
    """Another rank has already reported what this rank would report."""


class Watchdog:
    """One rank's view of all ranks, and the two threads that update it."""

    def __init__(
        self,
        store: Store,
        rank: int,
        world_size: int,
        timeout_s: float,
        address: str,
        keeper: int | str,
        device: str = "",
        advice: str = "",
    ):
        """Make the watchdog; nothing happens before `join` and `run`.

        Args:
            store: the store where all ranks meet, over a connection that nobody else uses, since requests may block.
            rank: the number of this process.
            world_size: the number of processes of the run.
            timeout_s: seconds after which a rank without progress ends the run.
            address: the address of the store, for messages.
            keeper: the rank whose process holds the store; if a program or a folder holds it, its name for messages.
            device: the device of this rank, for messages.
            advice: what to try if all ranks wait for the same messages.
        """
        self._device, self._advice = device, advice
        self._store, self._rank, self._timeout_s, self._address = store, rank, timeout_s, address
        self._keeper, self._space = keeper, process_space()
        self._keys = [record_key(other) for other in range(world_size)]
        self._interval = min(timeout_s / 10, 2.0)
        # A loaded machine delays threads by seconds. A silent rank of another machine is declared dead only after that.
        self._settle_s = max(3 * self._interval, 3.0)
        self._main_thread = threading.get_ident()
        self._step, self._beats, self._patience, self._serial = -1, 0, 0, 0
        self._state, self._idle_s = RUNNING, 0.0
        self._seen: dict[int, Seen] = {}
        self._n_answers, self._unanswered_s, self._lost = 0, 0.0, False
        self._wake, self._closing, self._ending = threading.Event(), threading.Event(), threading.Lock()
        self._threads = [threading.Thread(target=body, daemon=True) for body in (self._exchange, self._judge)]

    def join(self, stop: StopSignal) -> None:
        """Wait until every rank has published its first record.

        Raises:
            UserError: some ranks did not within the timeout, or before a stop signal came; names them.
            SystemExit: a stop signal came, and another rank has reported it.
        """
        who = f"rank {self._rank} of {len(self._keys)}"
        keeper = f"rank {self._keeper}" if isinstance(self._keeper, int) else self._keeper
        try:
            records = answer(lambda: self._gather(who, stop), self._timeout_s, stop, who, keeper, self._address)
        except _ToldByAnother:
            raise SystemExit(1) from None
        self._absorb(records, set(), 0.0)

    def _gather(self, who: str, stop: StopSignal) -> list[bytes]:
        """The first record of each rank; see `join`."""
        self._publish()
        began = time.monotonic()
        while not self._store.check(self._keys):
            if time.monotonic() - began < self._timeout_s and not stop.is_set:
                time.sleep(min(0.1, self._interval))
                continue
            missing = ", ".join(str(rank) for rank, key in enumerate(self._keys) if not self._store.check([key]))
            # If the store is gone, its holder was asked to stop too and has reported it.
            if stop.is_set and not self._claims(otherwise=False):
                raise _ToldByAnother
            if stop.is_set:
                raise UserError(f"{who} was asked to stop while it waited for rank {missing}, which had not started")
            raise UserError(
                f"{who} could not meet the others at {self._address} within {self._timeout_s:g} s: rank {missing} did "
                "not start; see what it says itself, or raise runtime.timeout_s"
            )
        return self._store.multi_get(self._keys)

    def _claims(self, otherwise: bool) -> bool:
        """Whether this rank is the first to claim the report of the reason; `otherwise` if the store is gone."""
        try:
            return self._store.add("told", 1) == 1
        except (RuntimeError, OSError):
            return otherwise

    def run(self) -> None:
        """Start the two threads."""
        for thread in self._threads:
            thread.start()

    def beat(self, step: int) -> None:
        """Note progress of this rank: it has reached `step` or works on it."""
        self._step = step
        self._beats += 1

    @contextmanager
    def patience(self) -> Iterator[None]:
        """Let every rank wait without limit for this one's progress while the body runs.

        A process that dies or stops is still named, and so is one that holds the interpreter lock for the timeout.
        """
        self._patience += 1
        try:
            yield
        finally:
            self._patience -= 1
            self._beats += 1

    def explain(self) -> bool:
        """Report why a collective has just failed, unless another rank does; waits for the evidence to arrive.

        Returns:
            Whether another rank caused it; False if all ranks still run.
        """
        self._ending.acquire()  # never released: from here on the judge thread reports nothing
        self._state = BROKEN
        self._wake.set()
        deadline = time.monotonic() + 2 * self._settle_s
        while time.monotonic() < deadline:
            time.sleep(self._interval / 4)
            found = cause_of(self._others(), self._limits(), is_lost=self._lost)
            if found:
                self._tell(found)
                return True
        return False

    def close(self, state: str) -> None:
        """Stop watching, and publish the last state of this rank.

        Args:
            state: DONE, FAILED if this rank reports an error of its own, or STOPPING because of another rank.
        """
        self._state = state
        self._wake.set()
        if self._rank == self._keeper:
            # The store ends with this process, so the others must first have read the state or ended themselves.
            deadline = time.monotonic() + (self._timeout_s if state == DONE else 2 * self._settle_s)
            while time.monotonic() < deadline and any(self._is_alive(seen) for seen in self._others()):
                time.sleep(self._interval / 4)
        self._closing.set()
        self._wake.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(timeout=2.0)

    def _is_alive(self, seen: Seen) -> bool:
        return seen.record.state in (*ACTIVE, BROKEN) and not seen.gone_s and seen.silent_s < self._settle_s

    def _others(self) -> list[Seen]:
        return [seen for rank, seen in sorted(self._seen.items()) if rank != self._rank]

    def _limits(self) -> Limits:
        if isinstance(self._keeper, str):
            return Limits(self._timeout_s, self._settle_s, self._keeper, None, self._advice)
        keeper = str(self._seen[self._keeper].record)
        return Limits(self._timeout_s, self._settle_s, keeper, self._keeper, self._advice)

    def _record(self) -> Record:
        state = PATIENT if self._patience and self._state == RUNNING else self._state
        frame = sys._current_frames().get(self._main_thread)
        where = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno} {frame.f_code.co_name}" if frame else "its end"
        self._serial += 1
        host, space, pid = socket.gethostname(), self._space, os.getpid()
        count, idle_s = _collectives(), self._idle_s
        return Record(self._rank, host, space, pid, self._serial, state, self._step, count, idle_s, where, self._device)

    def _publish(self) -> None:
        self._store.set(self._keys[self._rank], json.dumps(asdict(self._record())))

    def _gone(self) -> set[int]:
        """Ranks of this machine whose process has ended."""
        local = [seen for seen in self._others() if seen.is_local]
        return {seen.record.rank for seen in local if not is_running(seen.record.pid)}

    def _absorb(self, payloads: list[bytes], gone: set[int], passed_s: float) -> None:
        """Take in the records of all ranks; the processes of those in `gone` had ended before the records were read."""
        for payload in payloads:
            record = Record(**json.loads(payload))
            old = self._seen.get(record.rank)
            is_news = old is None or old.record.serial != record.serial
            silent_s = 0.0 if old is None or is_news else old.silent_s + passed_s
            gone_s = (old.gone_s if old else 0.0) + max(passed_s, 1e-3) if record.rank in gone else 0.0
            is_local = bool(self._space) and record.space == self._space
            self._seen[record.rank] = Seen(record, silent_s, is_local, gone_s)

    def _exchange(self) -> None:
        last = time.monotonic()
        while True:
            is_last = self._closing.is_set()
            try:
                self._publish()
                if is_last:
                    return
                gone = self._gone()  # first, so that the record of an ended process is its last one
                payloads = self._store.multi_get(self._keys)
            except OSError:  # from a folder, whose disk may have space again in a moment
                self._wake.wait(self._interval / 4)
                self._wake.clear()
                continue
            except RuntimeError:  # from a connection, which is lost
                self._lost = True
                return
            now = time.monotonic()
            self._absorb(payloads, gone, min(now - last, 2 * self._interval))
            self._n_answers, last = self._n_answers + 1, now
            self._wake.wait(self._interval)
            self._wake.clear()

    def _judge(self) -> None:
        last, mark, n_answers = time.monotonic(), (-1, 0, 0), 0
        while not self._closing.wait(self._interval):
            now, reached = time.monotonic(), (self._step, self._beats, _collectives())
            passed_s, last = min(now - last, 2 * self._interval), now
            is_moving = self._patience > 0 or reached != mark
            self._idle_s = 0.0 if is_moving else self._idle_s + passed_s
            self._unanswered_s = 0.0 if self._n_answers != n_answers else self._unanswered_s + passed_s
            mark, n_answers = reached, self._n_answers
            found = verdict_of(self._record(), self._others(), self._limits(), self._unanswered_s)
            if found and self._state == RUNNING and self._ending.acquire(blocking=False):
                self._stop(found)

    def _tell(self, found: Verdict) -> None:
        if not found.line or not self._is_first_to_tell(found.blamed):
            return
        tell(found.line, blamed=found.blamed)
        if self._lost:
            time.sleep(self._settle_s)  # the others cannot ask the store, and must see that this rank still runs

    def _is_first_to_tell(self, blamed: Sequence[int]) -> bool:
        if self._lost:
            lower = [seen for seen in self._others() if seen.record.rank < self._rank and seen.is_local]
            able = [seen.record for seen in lower if seen.record.state in ACTIVE and seen.record.rank not in blamed]
            return not any(is_running(record.pid) for record in able)
        if self._unanswered_s >= self._interval * 3:  # the store is silent, and two reports are better than none
            return True
        return self._claims(otherwise=True)

    def _stop(self, found: Verdict) -> None:
        self._tell(found)
        self._state = STOPPING
        self._wake.set()
        time.sleep(1.0)  # the others must read the record before the connections break
        os._exit(1)  # the main thread waits in a collective and cannot be interrupted
