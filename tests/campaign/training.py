"""Training runs whose ranks are killed, stopped or asked to stop: the same command goes on to the same weights.

start -> moment: starting, training, saving -> fault -> how the others end -> the same command again -> compare
"""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.campaign.bench import GRACE_S, LIMIT_S, TIMEOUT_S, Bench, Ended, Job, catches, wait_for
from tests.campaign.faults import BrokenPromise, Outcome
from tests.campaign.materials import LORA, PRETRAIN, SFT, filled
from tests.campaign.references import Reference, compare, reference

N_STEPS = 16
RANKS = (1, 1, 2, 2, 4)
_TUNE = ("--init_from={pretrained}", "--data.path={chats}", *SFT)
RUNS: dict[str, tuple[str, tuple[str, ...]]] = {
    "pretraining": ("train_pretrain.py", ("--data.path={tokens}", *PRETRAIN)),
    "SFT": ("train_sft.py", _TUNE),
    "LoRA": ("train_sft.py", (*_TUNE, *LORA)),
    "packed SFT": ("train_sft.py", (*_TUNE, "--data.pack")),
}
SAVING = {
    "often": ("--save_every=2", "--eval_every=6"),
    "seldom": ("--save_every=0", "--eval_every=5"),
}
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGXCPU)
_CHANGING = ("time", "tokens_per_s", "mfu", "memory_bytes", "data_wait")  # of a record, with the machine's mood


@dataclass(frozen=True)
class Setup:
    """A run, how often it saves, and its number of ranks."""

    run: str
    saving: str
    ranks: int

    def start(self, bench: Bench, **limit: int) -> Job:
        """Begin the run, or go on with it."""
        script, flags = RUNS[self.run]
        more = (f"--plan.steps={N_STEPS}", "--run_dir=run", *SAVING[self.saving])
        arguments = [filled(bench, flag) for flag in (*flags, *more)]
        return bench.start("training", *arguments, ranks=self.ranks, name=script, **limit)

    def __str__(self) -> str:
        return f"{self.run}, {self.ranks} ranks, saves {self.saving}"


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
        _check_resumed(ended, saved)
        check_end(run_dir, alone.folder / "run")
    except BrokenPromise as broken:
        raise BrokenPromise(f"{'; '.join(what)}: {broken}") from broken
    return Outcome("held", "; ".join(what))


def _disturb(
    rng: random.Random, job: Job, alone: Reference, run_dir: Path, saved: int, what: list[str]
) -> int:
    """Do something to a run, see its ranks end as they should, and give the newest step that was seen complete."""
    how = rng.choice(("kill one", "kill all", "stop one", "pause", "signal one", "signal all"))
    seen = Seen(run_dir, saved)
    moment = _wait(rng, job, alone, seen, is_caught=how.startswith("signal"))
    running = job.alive()
    victim = rng.choice(job.pids)
    victims = job.pids if how in ("kill all", "pause", "signal all") else [victim]
    if how == "stop one" and len(job.pids) == 1:
        how = "pause"
    signum = rng.choice(SIGNALS) if how.startswith("signal") else signal.SIGKILL
    if how in ("stop one", "pause"):
        signum = signal.SIGSTOP
    what.append(f"{how} ({signum.name} to rank {[job.pids.index(pid) for pid in victims]}) {moment}")
    for pid in set(victims) & set(running):
        os.kill(pid, signum)
    if how == "pause":
        time.sleep(rng.uniform(0, 0.5 * TIMEOUT_S))
        for pid in set(victims) & set(running):
            os.kill(pid, signal.SIGCONT)
    if set(victims) <= set(running):
        ended = _ended(job, how, victims, seen)
    else:
        ended = job.ended(LIMIT_S)  # it was over, or nearly so
    seen.look()
    _check_resumed(ended, saved)
    return seen.newest


def _ended(job: Job, how: str, victims: list[int], seen: Seen) -> Ended:
    """The end of a run whose ranks were all there when something was done to `victims`, checked."""
    waits = how in ("pause", "signal one", "signal all")
    ended = job.ended(LIMIT_S if waits else TIMEOUT_S + GRACE_S, besides=victims if how == "stop one" else ())
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
        raise BrokenPromise(f"nothing tells who is missing: {ended.tail}")
    return ended


class Seen:
    """The newest step directory that was ever complete: what must not be lost."""

    def __init__(self, run_dir: Path, newest: int) -> None:
        self._run_dir, self.newest = run_dir, newest

    def look(self) -> None:
        """Look for newer ones."""
        self.newest = max([self.newest, *complete_steps(self._run_dir)])


def complete_steps(run_dir: Path) -> list[int]:
    """The numbers of the steps whose directories have their names, which they get when they are complete."""
    return sorted(int(path.parent.name.removeprefix("step_")) for path in run_dir.glob("step_*/resume.json"))


def _wait(rng: random.Random, job: Job, alone: Reference, seen: Seen, is_caught: bool) -> str:
    """Wait for a moment of the run, and tell which."""
    run_dir = seen._run_dir
    moment = rng.choice(("while starting", "while training", "while training", "while saving"))
    record = rng.randrange(1, N_STEPS)
    step_s = rng.uniform(0, alone.seconds / N_STEPS)
    if is_caught:
        # Before that Python has its own handlers, and nothing of ours is there to be saved.
        wait_for(lambda: all(catches(pid, signal.SIGTERM) for pid in job.pids), job)
    if moment == "while starting":
        time.sleep(rng.uniform(0, alone.seconds / 2))
        seen.look()
        return moment

    def has_come() -> bool:
        seen.look()
        return n_records(run_dir) >= record

    wait_for(has_come, job)
    if moment == "while saving":
        wait_for((run_dir / ".saving").exists, job)
        step_s /= 20
    time.sleep(step_s)
    seen.look()
    return f"{moment}, after record {record}"


def n_records(run_dir: Path) -> int:
    """Lines of metrics.jsonl."""
    try:
        return (run_dir / "metrics.jsonl").read_bytes().count(b"\n")
    except OSError:
        return 0


def _check_resumed(ended: Ended, saved: int) -> None:
    if "resuming from" not in ended.output:
        if saved and "from scratch" in ended.output:
            raise BrokenPromise(f"step {saved} was saved and is lost: it begins from scratch")
        return
    step = int(ended.output.partition("resuming from ")[2].partition("step_")[2][:8])
    if step < saved:
        raise BrokenPromise(f"step {saved} was saved and is lost: it goes on from step {step}")


def check_end(mine: Path, theirs: Path) -> None:
    """Refuse a finished run whose last step or curve is not that of the reference.

    Raises:
        BrokenPromise: it is not.
    """
    last = f"step_{N_STEPS:08d}"
    compare(mine / last, theirs / last)
    if list(_curve(mine)) != list(_curve(theirs)):
        raise BrokenPromise("its metrics.jsonl is not that of a run left alone")
    if (names := _names(mine)) != _names(theirs):
        raise BrokenPromise(f"leaves {sorted(names ^ _names(theirs))} behind or out")
    if (mine / "latest").read_text() != f"{last}\n":
        raise BrokenPromise("`latest` does not name its last step")


def _curve(run_dir: Path) -> Iterator[dict[str, object]]:
    for line in (run_dir / "metrics.jsonl").read_text().splitlines():
        yield {key: value for key, value in json.loads(line).items() if key not in _CHANGING}


def _names(run_dir: Path) -> set[str]:
    """What lies in a run directory, but for steps, of which a stopped run may keep others, and event files."""
    return {path.name for path in run_dir.iterdir() if not path.name.startswith(("step_", "events."))}
