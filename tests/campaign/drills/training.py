"""Training runs whose ranks are killed, stopped or asked to stop: the same command goes on to the same weights.

start -> moment: starting, training, saving -> fault -> how the others end -> the same command again -> compare
"""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

from tests.campaign.bench import GRACE_S, LIMIT_S, TIMEOUT_S, Bench, Ended, Job, send
from tests.campaign.faults import BrokenPromise, Outcome
from tests.campaign.references import Reference, reference
from tests.campaign.runs import N_STEPS, RUNS, SAVING, Seen, Setup, check_end, check_resumed, wait_for_moment

RANKS = (1, 1, 2, 2, 4)
HURTS = (
    ("kill", "one"),
    ("kill", "all"),
    ("stop", "one"),
    ("pause", "one"),
    ("pause", "all"),
    ("signal", "one"),
    ("signal", "all"),
)
LONGEST_PAUSE_S = 0.4 * TIMEOUT_S
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGXCPU)


def disturb_training(rng: random.Random, bench: Bench) -> Outcome:
    """Disturb a run once or twice and see it end like one left alone."""
    setup = Setup(rng.choice(sorted(RUNS)), rng.choice(sorted(SAVING)), rng.choice(RANKS))
    alone = reference(bench, str(setup), lambda: setup.start(bench).succeed())
    run_dir, what = bench.folder / "run", [str(setup)]
    try:
        saved = 0
        for _ in range(rng.choice((1, 1, 2))):
            saved = _disturb(rng, setup.start(bench), alone, run_dir, saved, what)
        ended = setup.start(bench).succeed()
        check_resumed(ended, saved)
        check_end(run_dir, alone.folder / "run")
    except BrokenPromise as broken:
        raise BrokenPromise(f"{'; '.join(what)}: {broken}") from broken
    return Outcome("held", "; ".join(what))


def _disturb(rng: random.Random, job: Job, alone: Reference, run_dir: Path, saved: int, what: list[str]) -> int:
    """Do something to a run, see its ranks end as they should, and give the newest step that was seen complete."""
    verb, whom = rng.choice(HURTS)
    signum = {"kill": signal.SIGKILL, "signal": rng.choice(SIGNALS)}.get(verb, signal.SIGSTOP)
    seen = Seen(run_dir, saved)
    moment = wait_for_moment(rng, job, alone, seen, (lambda: job.pids) if verb == "signal" else None)
    victims = job.pids if whom == "all" else [rng.choice(job.pids)]
    if verb == "stop" and len(job.pids) == 1:
        verb = "pause"  # nobody would be left to notice
    was_over = not all([send(pid, signum) for pid in victims])
    ranks = ", ".join(str(job.pids.index(pid)) for pid in victims)
    what.append(f"{verb} rank {ranks} ({signum.name}) {moment}")
    if verb == "pause":
        time.sleep(rng.uniform(0, LONGEST_PAUSE_S))
        for pid in victims:
            send(pid, signal.SIGCONT)
    ended = job.ended(LIMIT_S) if was_over else _ended(job, verb, victims, seen)
    seen.look()
    check_resumed(ended, saved)
    return seen.newest


def _ended(job: Job, verb: str, victims: list[int], seen: Seen) -> Ended:
    """The end of a run whose ranks were all there when something was done to `victims`, checked."""
    waits = verb in ("pause", "signal")
    ended = job.ended(LIMIT_S if waits else TIMEOUT_S + GRACE_S, besides=victims if verb == "stop" else ())
    ended.check(guilty=victims)
    hurt = {job.pids.index(pid) for pid in victims}
    statuses = set(ended.statuses[rank] for rank in range(len(job.pids)) if rank not in hurt)
    seen.look()
    # Ranks that had done all their work need nobody, so they may end well whatever happens to another.
    is_over = seen.newest == N_STEPS
    allowed = {0} if waits else {0, 1} if is_over else {1}
    if not statuses <= allowed:
        raise BrokenPromise(f"the other ranks end with {statuses} and not {allowed}: {ended.tail}")
    mine = {ended.statuses[rank] for rank in hurt}
    if waits and not (mine == {0} or is_over):
        raise BrokenPromise(f"it ends with {mine} and not 0: {ended.tail}")
    if statuses == {1} and not ended.errors:
        raise BrokenPromise(f"nothing says who is missing: {ended.tail}")
    return ended
