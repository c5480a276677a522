"""Corpus stages that are killed, asked to stop or suspended: the same command again leaves the same bytes.

command -> kill, signal or pause at a random moment -> the same command again -> compare with one left alone
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from contextlib import suppress
from dataclasses import dataclass

from tests.campaign.bench import GRACE_S, LIMIT_S, Bench, Job, send
from tests.campaign.faults import BrokenPromise, Outcome
from tests.campaign.materials import SFT, filled, material
from tests.campaign.references import Reference, compare, reference


@dataclass(frozen=True)
class Stage:
    """A command, or the part of a script that prepares data.

    Attributes:
        source: the material it reads as `in`, in the scratch folder, so that paths are written alike in every drill.
        arguments: Arguments of the command, or of `script`.
        result: the folder that is compared.
        script: name of the script.
    """

    source: str
    arguments: tuple[str, ...]
    result: str = "out"
    script: str | None = None

    def start(self, bench: Bench, workers: int, **limit: int) -> Job:
        """Begin, in small pieces, so that there is much to be interrupted."""
        if self.script:
            flags = (*self.arguments, f"--data.work.workers={workers}", "--data.work.partition_bytes=20000")
            return bench.start("training", *(filled(bench, flag) for flag in flags), name=self.script, **limit)
        flags = (*self.arguments, f"--work.workers={workers}", "--work.partition_bytes=40000")
        return bench.start("command", *(filled(bench, flag) for flag in flags), **limit)


STAGES = {
    "clean": Stage("texts", ("clean", "in", "out")),
    "dedup": Stage("corpus", ("dedup", "in", "out")),
    "train-tokenizer": Stage("corpus", ("train-tokenizer", "in", "out", "--vocab_size=340")),
    "tokenize": Stage(
        "corpus",
        ("tokenize", "in", "out", "--tokenizer={tokenizer}", "--held_out=0.1", "--shard_tokens=20000"),
    ),
    "conversations": Stage(
        "many chats",
        ("--init_from={pretrained}", "--data.path=in", "--run_dir=out", "--plan.steps=1", *SFT),
        "out/conversations",
        "train_sft.py",
    ),
}


def kill_stage(rng: random.Random, bench: Bench) -> Outcome:
    """Disturb a corpus stage once or twice."""
    name, workers = rng.choice(sorted(STAGES)), rng.choice((1, 1, 2))
    stage = STAGES[name]
    source = material(bench, stage.source)

    def undisturbed() -> None:
        shutil.copytree(source, bench.folder / "in")
        stage.start(bench, workers).succeed()

    alone = reference(bench, f"{name} {workers}", undisturbed)
    shutil.copytree(source, bench.folder / "in")
    what: list[str] = []
    try:
        for _ in range(rng.choice((1, 1, 2))):
            what.append(_disturb(rng, stage.start(bench, workers), alone))
        stage.start(bench, workers).succeed()
        compare(bench.folder / stage.result, alone.folder / stage.result)
    except BrokenPromise as broken:
        raise BrokenPromise(f"{name}, {workers} workers, {', '.join(what)}: {broken}") from broken
    return Outcome("held", f"{name}, {workers} workers, {', '.join(what)}")


def _disturb(rng: random.Random, job: Job, alone: Reference) -> str:
    """Do something to a stage at work, see it end as it should; returns what was done."""
    moment_s = rng.uniform(0, alone.seconds)
    how = rng.choice(("SIGKILL", "SIGKILL to all", "SIGTERM", "SIGINT to all", "SIGSTOP"))
    time.sleep(moment_s)
    was_running = bool(job.alive())
    (pid,) = job.pids
    signum = signal.Signals[how.split()[0]]
    with suppress(ProcessLookupError):
        (os.killpg if how.endswith("to all") else os.kill)(pid, signum)
    if how == "SIGSTOP":
        time.sleep(rng.uniform(0, 1))
        send(pid, signal.SIGCONT)
    ended = job.ended(LIMIT_S if how == "SIGSTOP" else GRACE_S)
    what = f"{how} after {moment_s:.2f} of {alone.seconds:.2f} s"
    try:
        ended.check()
    except BrokenPromise as broken:
        raise BrokenPromise(f"{what}: {broken}") from broken
    # What the shell sees; 0 where the work was done by then.
    allowed = {"SIGSTOP": {0}, "SIGINT to all": {0, 130, -signum}}.get(how, {0, -signum})
    if ended.statuses[0] not in (allowed if was_running else {0}):
        raise BrokenPromise(f"{what}: ends with status {ended.statuses[0]}: {ended.tail}")
    return what
