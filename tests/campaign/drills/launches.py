"""Runs whose script starts its ranks itself: what becomes of all of them when one of them, or the script, is hurt."""

from __future__ import annotations

import os
import random
import signal
import time
from dataclasses import fields, replace
from pathlib import Path

from babyllm.runtime import RuntimeConfig
from tests.campaign.bench import GRACE_S, LIMIT_S, Bench, Job, children, is_alive, send
from tests.campaign.faults import BrokenPromise, Outcome
from tests.campaign.references import Reference, reference
from tests.campaign.runs import (
    LAUNCHED_TIMEOUT_S,
    N_STEPS,
    SAVING,
    Seen,
    Setup,
    check_end,
    check_resumed,
    wait_for_moment,
)

HURTS = ("kill a rank", "stop a rank", "kill the script", "signal the script", "signal all")


def disturb_launch(rng: random.Random, bench: Bench) -> Outcome:
    """Hurt a run that has started its own ranks and see it end like one whose ranks were started for it."""
    if not any(field.name == "processes" for field in fields(RuntimeConfig)):
        return Outcome("skipped", "there is no --runtime.processes yet")
    setup = Setup(rng.choice(("pretraining", "LoRA")), rng.choice(sorted(SAVING)), 2)
    alone = reference(bench, str(setup), lambda: setup.start(bench).succeed())
    launched = Setup(setup.run, setup.saving, setup.ranks, is_launched=True)
    run_dir, what = bench.folder / "run", [f"{setup}, started by the script"]
    try:
        saved = _hurt(rng, launched.start(bench), alone, run_dir, what)
        check_resumed(launched.start(bench).succeed(), saved)
        check_end(run_dir, alone.folder / "run")
    except BrokenPromise as broken:
        raise BrokenPromise(f"{'; '.join(what)}: {broken}") from broken
    return Outcome("held", "; ".join(what))


def _hurt(rng: random.Random, job: Job, alone: Reference, run_dir: Path, what: list[str]) -> int:
    """Do something to a run, see all its processes end as they should, and give the newest step that was complete."""
    how, seen = rng.choice(HURTS), Seen(run_dir, 0)
    (script,) = job.pids
    moment = wait_for_moment(rng, job, alone, seen, lambda: children(script) if how.startswith("signal") else [script])
    ranks = children(script)
    signum = rng.choice((signal.SIGTERM, signal.SIGINT, signal.SIGHUP)) if how.startswith("signal") else signal.SIGKILL
    if how == "signal all":
        signum = signal.SIGINT  # as Ctrl-C does
    victims = [rng.choice(ranks or [script])] if how.endswith("a rank") else [script]
    what.append(f"{how} ({signum.name}) {moment}")
    if how == "signal all" and job.alive():
        os.killpg(script, signum)
        was_over = False
    else:
        was_over = not send(victims[0], signal.SIGSTOP if how == "stop a rank" else signum)
    waits = was_over or how.startswith("signal")
    ended = job.ended(LIMIT_S if waits else LAUNCHED_TIMEOUT_S + GRACE_S)
    _check_gone(ranks)
    replace(ended, pids=ranks or ended.pids).check(guilty=victims)
    seen.look()
    is_over = seen.newest == N_STEPS
    allowed = {0} if waits else {-signal.SIGKILL} if how == "kill the script" else {0, 1} if is_over else {1}
    if ended.statuses[0] not in allowed:
        raise BrokenPromise(f"the script ends with status {ended.statuses[0]}: {ended.tail}")
    if ended.statuses[0] == 1 and not ended.errors:
        raise BrokenPromise(f"nothing says who is missing: {ended.tail}")
    return seen.newest


def _check_gone(ranks: list[int]) -> None:
    deadline = time.monotonic() + LAUNCHED_TIMEOUT_S + GRACE_S
    while left := [pid for pid in ranks if is_alive(pid)]:
        if time.monotonic() > deadline:
            for pid in left:
                send(pid, signal.SIGKILL)
            raise BrokenPromise(f"{len(left)} ranks live on without their script")
        time.sleep(0.01)
