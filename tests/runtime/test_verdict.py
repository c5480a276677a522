"""Whom ranks blame: a pure function of what they say about themselves."""

from dataclasses import replace

import pytest

from babyllm.runtime.launching.verdict import (
    BROKEN,
    DONE,
    FAILED,
    PATIENT,
    RUNNING,
    STOPPING,
    Limits,
    Record,
    Seen,
    Verdict,
    cause,
    verdict,
)

LIMITS = Limits(timeout_s=60, settle_s=6, store="torchrun at x:1", keeper=None, advice="try another interface")
KEPT = LIMITS._replace(store="rank 0 (here, pid 100)", keeper=0)


def record(rank: int, state: str = RUNNING, *, step: int = 5, collectives: int = 20, idle_s: float = 0.0) -> Record:
    return Record(rank, "here", "space", 100 + rank, 1, state, step, collectives, idle_s, "loop.py:1 train")


def local(rank: int, state: str = RUNNING, *, gone_s: float = 0.0, silent_s: float = 0.0, step: int = 5) -> Seen:
    """A rank of this machine."""
    return Seen(record(rank, state, step=step), silent_s, is_local=True, gone_s=gone_s)


def far(rank: int, state: str = RUNNING, *, silent_s: float = 0.0) -> Seen:
    """A rank of another machine, whose process nobody here can look at."""
    return Seen(record(rank, state), silent_s)


@pytest.mark.parametrize("state", [BROKEN, STOPPING])
def test_a_victim_is_never_the_cause(state: str) -> None:
    """Of two ranks that are gone, the one whose own collective broke before is not named."""
    victim, culprit = local(1, state, gone_s=1), local(2, gone_s=1)
    found = cause([victim, culprit], LIMITS, is_lost=False)
    if state == STOPPING:  # which says why itself
        assert found == Verdict((), "")
    else:
        assert found and list(found.blamed) == [2]
        assert found.line == "rank 2 (here, pid 102) died, last seen at step 5"
    assert verdict(record(3, idle_s=9), [victim], LIMITS, 0.0) == (Verdict((), "") if state == STOPPING else None)


def test_a_slow_rank_of_this_machine_has_not_died() -> None:
    """However long its record stays the same, a rank whose process is there is not taken for dead; one far away is."""
    assert cause([local(1, silent_s=30)], LIMITS, is_lost=False) is None
    found = cause([local(1, silent_s=30), far(2, silent_s=7)], LIMITS, is_lost=False)
    assert found and list(found.blamed) == [2]
    assert cause([far(2, silent_s=5)], LIMITS, is_lost=False) is None


def test_a_machine_is_named_with_its_devices() -> None:
    """When all ranks of another machine are gone, the line says which machine that is, and each rank's device."""
    gone = [Seen(replace(record(rank), host="there", device=f"cuda:{rank - 2}"), silent_s=9) for rank in (2, 3)]
    found = cause([local(1), *gone], LIMITS, is_lost=False)
    assert found and list(found.blamed) == [2, 3]
    ranks = "rank 2 (there, cuda:0, pid 102), rank 3 (there, cuda:1, pid 103)"
    assert found.line == f"all of machine there: {ranks} died, last seen at step 5"
    one_left = [gone[0]._replace(silent_s=0.0), gone[1]]
    found = cause([local(1), *one_left], LIMITS, is_lost=False)
    assert found and found.line == "rank 3 (there, cuda:1, pid 103) died, last seen at step 5"


def test_an_error_of_its_own_is_left_to_a_rank() -> None:
    """A rank that reports its own error is not named by others, which end without a word."""
    assert cause([local(1, FAILED)], LIMITS, is_lost=False) == Verdict((), "")
    assert verdict(record(0, idle_s=9), [local(1, FAILED)], LIMITS, 0.0) is None
    assert verdict(record(0, idle_s=11), [local(1, FAILED)], LIMITS, 0.0) == Verdict((), "")


def test_a_rank_that_ended_too_early_is_named() -> None:
    """One that has done all its work while others wait for it is named, at once where a collective breaks."""
    line = "rank 1 (here, pid 101) ended while other ranks waited for it, last seen at step 5"
    found = cause([local(1, DONE, gone_s=1)], LIMITS, is_lost=False)
    assert found and found.line == line
    assert verdict(record(0, idle_s=59), [local(1, DONE)], LIMITS, 0.0) is None
    found = verdict(record(0, idle_s=61), [local(1, DONE)], LIMITS, 0.0)
    assert found and found.line == f"{line}: stopping"


def test_a_silent_rank_is_named_whatever_the_others_do() -> None:
    """Patience for long work, its own or that of others, does not cover a process that shows no sign of life."""
    for me in (record(1, PATIENT), record(1, idle_s=61)):
        for state in (RUNNING, PATIENT):
            found = verdict(me, [local(0, state, silent_s=60), local(2, PATIENT)], LIMITS, 0.0)
            assert found and list(found.blamed) == [0]
            assert "rank 0 (here, pid 100) has given no sign of life for 60 s, last seen at step 5" in found.line


def test_a_store_that_does_not_answer_is_a_verdict_whatever_the_patience() -> None:
    """Where rank 0 keeps the store and hangs, nobody hears of anybody: rank 0 is named, after the timeout."""
    me, others = record(1, PATIENT), [local(0, silent_s=0)]
    assert verdict(me, others, KEPT, 59) is None
    found = verdict(me, others, KEPT, 60)
    assert found and found.blamed == (0,)
    assert found.line.startswith("rank 0 (here, pid 100) has not answered for 60 s: it keeps the store")
    assert (verdict(me, others, LIMITS, 60) or found).blamed == ()


def test_a_store_that_goes_with_its_keeper_tells_whose_fault_it_was() -> None:
    """A keeper that ended because of another is not named; one that was working is."""
    assert cause([local(0, BROKEN)], KEPT, is_lost=True) == Verdict((), "")
    found = cause([far(0)], KEPT, is_lost=True)
    assert found and found.blamed == (0,) and "rank 0 (here, pid 100) is gone" in found.line


def test_a_save_may_end_before_the_run_does() -> None:
    """When a rank has died, rank 0 goes on saving for half a minute; others, which write nothing, end at once."""
    dead = local(2, gone_s=1)
    assert verdict(record(0, PATIENT), [dead], LIMITS, 0.0) is None
    for me in (record(0, idle_s=7), record(1, PATIENT), record(1)):
        assert verdict(me, [dead], LIMITS, 0.0)
    assert verdict(record(0, PATIENT), [dead._replace(gone_s=31)], LIMITS, 0.0)


def test_the_rank_that_hangs_is_the_one_behind() -> None:
    """Of ranks that all make no progress, those that have entered the fewest collectives are named."""
    ahead = replace(record(0, idle_s=61), collectives=21)
    late = Seen(record(1, idle_s=61), is_local=True)
    found = verdict(ahead, [late, local(2)._replace(record=replace(ahead, rank=2))], LIMITS, 0.0)
    assert found and list(found.blamed) == [1]
    assert "has not gone beyond step 5 for 60 s (it is at loop.py:1 train): stopping" in found.line
    together = verdict(ahead, [late._replace(record=replace(ahead, rank=1))], LIMITS, 0.0)
    assert together and list(together.blamed) == [0, 1]
    assert "have not gone beyond step 5 for 60 s, all wait for the same messages" in together.line
    assert together.line.endswith("train): stopping; try another interface")
    moving = late._replace(record=record(1, idle_s=2))
    assert verdict(ahead, [moving], LIMITS, 0.0) is None
    assert verdict(ahead, [late._replace(record=record(1, PATIENT, idle_s=0))], LIMITS, 0.0) is None
