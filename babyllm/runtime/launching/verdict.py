"""Which ranks are at fault, as a pure function of the records of all ranks.

A rank is at fault if it died, is silent, has not entered the collective that the others wait in, or ended while they
wait for it. A rank is not at fault if its collective broke (BROKEN) or it ends because of another rank (STOPPING).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

RUNNING, PATIENT = "running", "patient"
BROKEN, DONE, FAILED, STOPPING = "broken", "done", "failed", "stopping"
ACTIVE = (RUNNING, PATIENT)
# Seconds for which ranks wait after another has ended with an error, so that its message reaches the terminal first.
_GRACE_S = 10.0
# Seconds for which rank 0 may go on saving after another rank has died.
_SAVING_S = 30.0


def record_key(rank: int) -> str:
    """The key of a rank's record in the store."""
    return f"watchdog/{rank}"


@dataclass(frozen=True)
class Record:
    """What a rank reports about itself to the others."""

    rank: int
    host: str
    space: str  # the `process_space` in which its process id is valid
    pid: int
    serial: int  # grows with every record, which shows that the rank lives
    state: str
    step: int  # -1 before the first beat
    collectives: int  # number of collectives entered: a rank that hangs has entered fewer than the others
    idle_s: float  # seconds since its last progress
    where: str  # the file, line and function that its main thread runs
    device: str = ""  # the device on which it computes

    def __str__(self) -> str:
        return f"rank {self.rank} ({', '.join(filter(None, (self.host, self.device)))}, pid {self.pid})"

    @property
    def last_seen(self) -> str:
        """The step at which the rank was last seen, as words of a message."""
        return f"last seen at step {self.step}" if self.step >= 0 else "last seen before its first step"


class Seen(NamedTuple):
    """A rank as another one sees it.

    Attributes:
        record: the rank's newest record.
        silent_s: seconds since that record arrived.
        is_local: whether the other rank can look its process up.
        gone_s: seconds since its process was first found ended; 0 while it runs, or if it cannot be looked up.
    """

    record: Record
    silent_s: float = 0.0
    is_local: bool = False
    gone_s: float = 0.0


class Limits(NamedTuple):
    """When a rank is late.

    Attributes:
        timeout_s: seconds after which a rank without progress ends the run.
        settle_s: seconds of silence after which a rank of another machine counts as dead when a collective has broken.
        store: the holder of the store and its address, for messages.
        keeper: the rank that holds the store; None if no rank does.
        advice: what to try if all ranks wait for the same messages.
    """

    timeout_s: float
    settle_s: float
    store: str
    keeper: int | None
    advice: str = ""


class Verdict(NamedTuple):
    """Why the run ends: the ranks at fault and the line that names them; empty if another rank reports it."""

    blamed: Sequence[int]
    line: str


_SAID = Verdict((), "")


def cause(others: Sequence[Seen], limits: Limits, *, is_lost: bool) -> Verdict | None:
    """Why a collective has just broken; None while there is no evidence.

    Args:
        others: all ranks except this one.
        limits: the limits of the run.
        is_lost: whether the store is gone.
    """
    if any(seen.record.state in (FAILED, STOPPING) for seen in others):
        return _SAID
    if ended := [seen.record for seen in others if seen.record.state == DONE]:
        return _ended(ended)
    if died := _died(others, limits.settle_s):
        return _names(died, f"died, {died[0].last_seen}", others)
    if not is_lost:
        return None
    keeper = next((seen.record for seen in others if seen.record.rank == limits.keeper), None)
    if keeper and keeper.state not in ACTIVE:  # it ended because of another rank, and the store with it
        return _SAID
    return _store(limits, "is gone")


def verdict(me: Record, others: Sequence[Seen], limits: Limits, unanswered_s: float) -> Verdict | None:
    """Why this rank must end the run; None while the run may go on.

    Args:
        me: the record of this rank.
        others: all ranks except this one.
        limits: the limits of the run.
        unanswered_s: seconds for which the store has not answered.
    """
    gone = [seen for seen in others if seen.gone_s and seen.record.state in ACTIVE]
    # Only rank 0 writes files. It may finish a save that it has begun.
    is_saving = me.rank == 0 and me.idle_s < limits.settle_s
    if gone and (not is_saving or gone[0].gone_s >= _SAVING_S):
        return _names([seen.record for seen in gone], f"died, {gone[0].record.last_seen}", others)
    silent = [s.record for s in others if s.record.state in ACTIVE and not s.gone_s and s.silent_s >= limits.timeout_s]
    if silent:
        sign = f"has given no sign of life for {limits.timeout_s:g} s, {silent[0].last_seen} ({silent[0].where})"
        return _names(silent, f"{sign}: stopping", others)
    if unanswered_s >= limits.timeout_s:
        return _store(limits, f"has not answered for {limits.timeout_s:g} s", ": stopping")
    if me.idle_s >= limits.settle_s and any(seen.record.state == STOPPING for seen in others):
        return _SAID
    if me.idle_s >= _GRACE_S and any(seen.record.state in (FAILED, BROKEN) for seen in others):
        return _SAID
    return _late(me, others, limits) if me.idle_s >= limits.timeout_s else None


def _late(me: Record, others: Sequence[Seen], limits: Limits) -> Verdict | None:
    """The live ranks that this one has waited for too long."""
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
    if len(late) == len(records) > 1:
        where = f"all wait for the same messages (rank {late[0].rank} is at {late[0].where})"
        advice = f": stopping; {limits.advice}" if limits.advice else ": stopping"
        return _names(late, f"have not {progress.replace('its', 'their')} for {limits.timeout_s:g} s, {where}{advice}")
    return _names(late, f"has not {progress} for {limits.timeout_s:g} s (it is at {late[0].where}): stopping")


def _died(others: Sequence[Seen], settle_s: float) -> list[Record]:
    """Ranks that ended without a report: their process is gone, or it is silent and cannot be looked up."""
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


def _names(records: Sequence[Record], what: str, others: Sequence[Seen] = ()) -> Verdict:
    """The verdict on some ranks; with `others`, all ranks but the judging one, a machine of which none is left."""
    hosts = {record.host for record in records}
    left = [seen.record for seen in others if seen.record.host in hosts and seen.record not in records]
    is_machine = len(hosts) == 1 < len(records) and others and not left
    machine = f"all of machine {records[0].host}: " if is_machine else ""
    return Verdict([record.rank for record in records], f"{machine}{', '.join(map(str, records))} {what}")
