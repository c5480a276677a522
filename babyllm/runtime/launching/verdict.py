"""Which ranks are to blame, as a pure function of what all ranks have said about themselves.

A rank is blamed only for what is its own: it died, it is silent, it has not entered what the others wait in, or it
ended while they wait for it. One whose collective broke (BROKEN), or that ends because of another (STOPPING), is not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

RUNNING, PATIENT = "running", "patient"
BROKEN, DONE, FAILED, STOPPING = "broken", "done", "failed", "stopping"
ACTIVE = (RUNNING, PATIENT)
# How long ranks wait for one that has ended with an error; its own message must have the time to reach the terminal.
_GRACE_S = 10.0
# How long rank 0 may go on saving after another rank has died.
_SAVING_S = 30.0


def record_key(rank: int) -> str:
    """The key of the store under which a rank's record lies."""
    return f"watchdog/{rank}"


@dataclass(frozen=True)
class Record:
    """What a rank tells the others about itself."""

    rank: int
    host: str
    space: str  # where its process id means something
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
        """At which step."""
        return f"last seen at step {self.step}" if self.step >= 0 else "last seen before its first step"


class Seen(NamedTuple):
    """A rank as another one sees it.

    Attributes:
        record: the last that came.
        silent_s: for how long it has been the last.
        is_local: whether the other one can look at its process.
        gone_s: for how long its process has been known to be gone; 0 while it is there, or where nobody can look.
    """

    record: Record
    silent_s: float = 0.0
    is_local: bool = False
    gone_s: float = 0.0


class Limits(NamedTuple):
    """When a rank is late.

    Attributes:
        timeout_s: how long a rank may make no progress.
        settle_s: how long a rank that cannot be looked at must be silent to count as dead when a collective has broken.
        store: what keeps the store, and where, for messages.
        keeper: the rank that keeps it; None where no rank does.
    """

    timeout_s: float
    settle_s: float
    store: str
    keeper: int | None


class Verdict(NamedTuple):
    """Why the run ends: the ranks at fault and the line that says so, empty where another rank says it."""

    blamed: Sequence[int]
    line: str


_SAID = Verdict((), "")


def cause(others: Sequence[Seen], limits: Limits, *, is_lost: bool) -> Verdict | None:
    """Why a collective has just broken; None while nothing tells.

    Args:
        others: all ranks but this one.
        limits: of the run.
        is_lost: whether the store is gone.
    """
    if any(seen.record.state in (FAILED, STOPPING) for seen in others):
        return _SAID
    if ended := [seen.record for seen in others if seen.record.state == DONE]:
        return _ended(ended)
    if died := _died(others, limits.settle_s):
        return _names(died, f"died, {died[0].last_seen}")
    if not is_lost:
        return None
    keeper = next((seen.record for seen in others if seen.record.rank == limits.keeper), None)
    if keeper and keeper.state not in ACTIVE:  # it ended for another's sake, and the store with it
        return _SAID
    return _store(limits, "is gone")


def verdict(me: Record, others: Sequence[Seen], limits: Limits, unanswered_s: float) -> Verdict | None:
    """Why this rank must end the run; None while it need not.

    Args:
        me: this rank.
        others: all others.
        limits: of the run.
        unanswered_s: for how long the store has not answered.
    """
    gone = [seen for seen in others if seen.gone_s and seen.record.state in ACTIVE]
    # Rank 0 alone writes files; what it has begun to save it may end.
    is_saving = me.rank == 0 and me.idle_s < limits.settle_s
    if gone and (not is_saving or gone[0].gone_s >= _SAVING_S):
        return _names([seen.record for seen in gone], f"died, {gone[0].record.last_seen}")
    silent = [s.record for s in others if s.record.state in ACTIVE and not s.gone_s and s.silent_s >= limits.timeout_s]
    if silent:
        sign = f"has given no sign of life for {limits.timeout_s:g} s, {silent[0].last_seen} ({silent[0].where})"
        return _names(silent, f"{sign}: stopping")
    if unanswered_s >= limits.timeout_s:
        return _store(limits, f"has not answered for {limits.timeout_s:g} s", ": stopping")
    if me.idle_s >= limits.settle_s and any(seen.record.state == STOPPING for seen in others):
        return _SAID
    if me.idle_s >= _GRACE_S and any(seen.record.state in (FAILED, BROKEN) for seen in others):
        return _SAID
    return _late(me, others, limits) if me.idle_s >= limits.timeout_s else None


def _late(me: Record, others: Sequence[Seen], limits: Limits) -> Verdict | None:
    """The ranks for which this one waits in vain, all of them alive."""
    if any(seen.record.state == PATIENT for seen in others):
        return None
    if ended := [seen.record for seen in others if seen.record.state == DONE]:
        return _ended(ended, ": stopping")
    records = [*(seen.record for seen in others), me]
    least = min((record.step, record.collectives) for record in records)
    late = sorted((r for r in records if (r.step, r.collectives) == least), key=lambda record: record.rank)
    if any(record.idle_s < limits.timeout_s for record in late):
        return None
    progress = f"gone beyond step {late[0].step}" if late[0].step >= 0 else "reached its first step"
    return _names(late, f"has not {progress} for {limits.timeout_s:g} s (it is at {late[0].where}): stopping")


def _died(others: Sequence[Seen], settle_s: float) -> list[Record]:
    """Ranks that ended without a word: their process is gone, or cannot be looked at and is silent."""
    return [
        seen.record
        for seen in others
        if seen.record.state in ACTIVE and (seen.gone_s or (not seen.is_local and seen.silent_s >= settle_s))
    ]


def _ended(records: Sequence[Record], end: str = "") -> Verdict:
    return _names(records, f"ended while other ranks waited for it, {records[0].last_seen}{end}")


def _store(limits: Limits, trouble: str, end: str = "") -> Verdict:
    blamed = () if limits.keeper is None else (limits.keeper,)
    return Verdict(blamed, f"{limits.store} {trouble}: it keeps the store where ranks meet{end}")


def _names(records: Sequence[Record], what: str) -> Verdict:
    return Verdict([record.rank for record in records], f"{', '.join(str(record) for record in records)} {what}")
