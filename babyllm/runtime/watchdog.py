"""Names the rank that died or hangs and ends the run, so that no rank waits for it for ever.

    main thread       beat(step), patience()                   -> this rank's record
    exchange thread   record -> store -> everyone's records       may block: the store lives in another process
    judge thread      records -> verdict -> one line, exit status 1      never blocks

Collectives release the interpreter lock, so both threads run while the main thread waits inside one. Clocks of
different machines are never compared: a rank is silent when its record stops changing. No stretch counts for more than
twice the interval, so a rank that was itself suspended (SIGSTOP, SIGCONT) does not blame the others when it wakes up.
"""

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path

import torch.distributed as dist
from torch.distributed.distributed_c10d import Store

from babyllm.errors import UserError

RUNNING, PATIENT = "running", "patient"
DONE, FAILED, STOPPING = "done", "failed", "stopping"
_ACTIVE = (RUNNING, PATIENT)
# How long ranks wait for one that has ended with an error; its own message must have the time to reach the terminal.
_GRACE_S = 10.0


@dataclass(frozen=True)
class _Record:
    """What a rank tells the others about itself."""

    rank: int
    host: str
    pid: int
    serial: int  # grows with every record, so a reader sees that the rank lives
    state: str
    step: int  # -1 before the first beat
    collectives: int  # collectives entered: the rank that hangs has entered fewer than those that wait for it
    idle_s: float  # since its last progress
    where: str  # what its main thread is doing

    def __str__(self) -> str:
        return f"rank {self.rank} ({self.host}, pid {self.pid})"

    @property
    def last_seen(self) -> str:
        return f"last seen at step {self.step}" if self.step >= 0 else "last seen before its first step"


def _collectives() -> int:
    # Private in PyTorch: without it ranks are told apart by their steps alone.
    count = getattr(dist.group.WORLD, "_get_sequence_number_for_group", None)
    return int(count()) if count else 0


def _names(records: Sequence[_Record]) -> str:
    return ", ".join(str(record) for record in records)


class Watchdog:
    """One rank's view of all ranks, and the two threads that keep it."""

    def __init__(self, store: Store, rank: int, world_size: int, timeout_s: float, address: str, keeps_store: bool):
        """Make the watchdog; nothing happens before `join` and `run`.

        Args:
            store: where all ranks meet; its connection is cloned, so the caller's own use of it may block.
            rank: this process.
            world_size: all processes.
            timeout_s: how long a rank may make no progress.
            address: host and port of the store, for messages.
            keeps_store: whether the store lives in rank 0's process (and not in torchrun's).
        """
        self._store = store.clone()  # type: ignore[attr-defined]  # missing from PyTorch's stubs
        self._rank, self._timeout_s, self._address, self._keeps_store = rank, timeout_s, address, keeps_store
        self._keys = [f"watchdog/{other}" for other in range(world_size)]
        self._interval = min(timeout_s / 10, 2.0)
        # A loaded machine delays threads by a second easily, so nobody is declared dead sooner than that.
        self._settle_s = max(3 * self._interval, 1.5)
        self._main_thread = threading.get_ident()
        self._step, self._beats, self._patience, self._serial = -1, 0, 0, 0
        self._state, self._idle_s = RUNNING, 0.0
        self._records: dict[int, _Record] = {}
        self._silent_s = dict.fromkeys(range(world_size), 0.0)
        self._answered, self._lost = time.monotonic(), False
        self._wake, self._closing = threading.Event(), threading.Event()
        self._threads = [threading.Thread(target=body, daemon=True) for body in (self._exchange, self._judge)]

    def join(self) -> None:
        """Wait until every rank has said that it is there.

        Raises:
            UserError: some ranks did not within the timeout; names them.
        """
        self._publish()
        try:
            self._store.wait(self._keys, timedelta(seconds=self._timeout_s))
        except dist.DistError:
            missing = [str(rank) for rank, key in enumerate(self._keys) if not self._store.check([key])]
            raise UserError(
                f"rank {', '.join(missing)} of {len(self._keys)} did not start within {self._timeout_s:g} s: "
                "see what it says itself, or raise runtime.timeout_s"
            ) from None
        self._absorb(self._store.multi_get(self._keys), 0.0)

    def run(self) -> None:
        """Begin to watch."""
        self._answered = time.monotonic()
        for thread in self._threads:
            thread.start()

    def beat(self, step: int) -> None:
        """Note that this rank has reached `step`, or is still getting on with it."""
        self._step = step
        self._beats += 1

    @contextmanager
    def patience(self) -> Iterator[None]:
        """Suspend judging a lack of progress, on every rank, while the body runs.

        A process that dies or stops is still named; so is one whose body holds the interpreter lock for the timeout.
        """
        self._patience += 1
        try:
            yield
        finally:
            self._patience -= 1
            self._beats += 1

    def explain(self) -> str | None:
        """Say why a collective has just failed, after giving the evidence time to arrive.

        Returns:
            A line that names the ranks at fault; "" when another rank says it; None when all ranks are still there.
        """
        deadline = time.monotonic() + 2 * self._settle_s
        while time.monotonic() < deadline:
            time.sleep(self._interval / 4)
            others = self._others()
            if any(record.state in (FAILED, STOPPING) for record in others):
                return ""
            gone = [record for record in others if record.state == DONE]
            if gone:
                return self._told(gone, f"{_names(gone)} ended while other ranks waited for it, {gone[0].last_seen}")
            dead = [record for record in others if self._silent_s[record.rank] >= self._settle_s]
            if dead or self._lost:
                line = f"{_names(dead)} died, {dead[0].last_seen}" if dead else self._store_line("is gone")
                return self._told(dead, line)
        return None

    def close(self, state: str) -> None:
        """Stop watching; leave DONE, FAILED (this rank tells its own error) or STOPPING (because of another) behind."""
        self._state = state
        self._wake.set()
        if self._rank == 0 and self._keeps_store:
            # The store goes with this process, and the others' last look at it would fail noisily.
            deadline = time.monotonic() + (self._timeout_s if state == DONE else 1.0)
            while time.monotonic() < deadline and any(self._is_alive(record) for record in self._others()):
                time.sleep(self._interval / 4)
        self._closing.set()
        self._wake.set()
        for thread in self._threads:
            thread.join(timeout=2.0)

    def _is_alive(self, record: _Record) -> bool:
        return record.state in _ACTIVE and self._silent_s[record.rank] < self._settle_s

    def _others(self) -> list[_Record]:
        return [record for rank, record in sorted(self._records.items()) if rank != self._rank]

    def _record(self) -> _Record:
        state = PATIENT if self._patience and self._state == RUNNING else self._state
        frame = sys._current_frames().get(self._main_thread)
        where = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno} {frame.f_code.co_name}" if frame else "its end"
        self._serial += 1
        host, pid = socket.gethostname(), os.getpid()
        return _Record(self._rank, host, pid, self._serial, state, self._step, _collectives(), self._idle_s, where)

    def _publish(self) -> None:
        self._store.set(self._keys[self._rank], json.dumps(asdict(self._record())))

    def _absorb(self, payloads: Sequence[bytes], passed_s: float) -> None:
        records = [_Record(**json.loads(payload)) for payload in payloads]
        for record in records:
            old = self._records.get(record.rank)
            is_news = old is None or old.serial != record.serial
            self._silent_s[record.rank] = 0.0 if is_news else self._silent_s[record.rank] + passed_s
        self._records = {record.rank: record for record in records}

    def _exchange(self) -> None:
        last = time.monotonic()
        while True:
            is_last = self._closing.is_set()
            try:
                self._publish()
                if is_last:
                    return
                payloads = self._store.multi_get(self._keys)
            except RuntimeError:
                self._lost = True
                return
            self._answered = time.monotonic()
            self._absorb(payloads, min(self._answered - last, 2 * self._interval))
            last = self._answered
            self._wake.wait(self._interval)
            self._wake.clear()

    def _judge(self) -> None:
        last, mark = time.monotonic(), (-1, 0, 0)
        while not self._closing.wait(self._interval):
            now, reached = time.monotonic(), (self._step, self._beats, _collectives())
            is_moving = self._patience > 0 or reached != mark
            self._idle_s = 0.0 if is_moving else self._idle_s + min(now - last, 2 * self._interval)
            last, mark = now, reached
            verdict = self._verdict()
            if verdict and self._state == RUNNING:
                self._stop(*verdict)

    def _verdict(self) -> tuple[list[_Record], str] | None:
        """The ranks at fault and the line that says so, or None while all is well."""
        others = self._others()
        silent = [
            record for record in others if record.state in _ACTIVE and self._silent_s[record.rank] >= self._timeout_s
        ]
        if silent:
            return silent, (
                f"{_names(silent)} has given no sign of life for {self._timeout_s:g} s, {silent[0].last_seen} "
                f"({silent[0].where}): stopping"
            )
        failed = [record for record in others if record.state in (FAILED, STOPPING)]
        if self._idle_s < (_GRACE_S if failed else self._timeout_s):
            return None
        if time.monotonic() - self._answered >= self._timeout_s / 2:
            return [self._records[0]] if self._keeps_store else [], self._store_line("does not answer") + ": stopping"
        if any(record.state == PATIENT for record in others):
            return None
        gone = failed or [record for record in others if record.state == DONE]
        if gone:
            return gone, f"{_names(gone)} ended while other ranks waited for it, {gone[0].last_seen}: stopping"
        records = [*others, self._record()]
        least = min((record.step, record.collectives) for record in records)
        late = sorted((r for r in records if (r.step, r.collectives) == least), key=lambda record: record.rank)
        if any(record.idle_s < self._timeout_s for record in late):
            return None
        progress = f"gone beyond step {late[0].step}" if late[0].step >= 0 else "reached its first step"
        return late, f"{_names(late)} has not {progress} for {self._timeout_s:g} s (it is at {late[0].where}): stopping"

    def _store_line(self, trouble: str) -> str:
        keeper = str(self._records[0]) if self._keeps_store else "torchrun on the first machine"
        return f"{keeper} {trouble}: it keeps the store at {self._address} where ranks meet"

    def _told(self, blamed: Sequence[_Record], line: str) -> str:
        """The line, or "" when a rank that comes before this one has told it.

        The lowest rank that is not to blame tells at once. The others wait to see it do so, and tell themselves if it
        does not: the line appears once as a rule, and is never lost.
        """
        at_fault = {record.rank for record in blamed}
        active = {record.rank for record in self._others() if self._is_alive(record)} | {self._rank}
        if self._rank != min(active - at_fault or active):
            deadline = time.monotonic() + self._settle_s
            while time.monotonic() < deadline:
                if any(record.state == STOPPING for record in self._others()):
                    return ""
                time.sleep(self._interval / 4)
        return line

    def _stop(self, blamed: Sequence[_Record], line: str) -> None:
        line = self._told(blamed, line)
        if line:
            print(f"{Path(sys.argv[0]).name}: {line}", file=sys.stderr, flush=True)
        self._state = STOPPING
        self._wake.set()
        time.sleep(1.0)  # for the others to see the record before the connections break
        os._exit(1)  # the main thread sits in a collective and cannot be interrupted
