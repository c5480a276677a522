"""Training runs as drills use them: how one is started, its moments, what it has saved, and how it must end."""

from __future__ import annotations

import json
import random
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.campaign.bench import Bench, Ended, Job, catches, wait_for
from tests.campaign.faults import BrokenPromise
from tests.campaign.materials import LORA, PRETRAIN, SFT, filled
from tests.campaign.references import Reference, compare

N_STEPS = 16
LAUNCHED_TIMEOUT_S = 20  # new programs load torch before their first step
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
_CHANGING = ("time", "tokens_per_s", "mfu", "memory_bytes", "data_wait")  # of a record, with the machine's mood


@dataclass(frozen=True)
class Setup:
    """A run, how often it saves, and its number of ranks; whether the script starts them itself."""

    run: str
    saving: str
    ranks: int
    is_launched: bool = False

    def start(self, bench: Bench, **limit: int) -> Job:
        """Begin the run, or go on with it."""
        script, flags = RUNS[self.run]
        more = [f"--plan.steps={N_STEPS}", "--run_dir=run", *SAVING[self.saving]]
        if self.is_launched:
            more.append(f"--runtime.processes={self.ranks}")
        arguments = [filled(bench, flag) for flag in (*flags, *more)]
        if self.is_launched:
            return bench.start("program", *arguments, f"--runtime.timeout_s={LAUNCHED_TIMEOUT_S}", name=script)
        return bench.start("training", *arguments, ranks=self.ranks, name=script, **limit)

    def __str__(self) -> str:
        return f"{self.run}, {self.ranks} ranks, saves {self.saving}"


class Seen:
    """The newest step directory that was ever complete: what must not be lost."""

    def __init__(self, run_dir: Path, newest: int) -> None:
        self.run_dir, self.newest = run_dir, newest

    def look(self) -> None:
        """Look for newer ones."""
        self.newest = max([self.newest, *complete_steps(self.run_dir)])


def complete_steps(run_dir: Path) -> list[int]:
    """The numbers of the steps whose directories have their names, which they get when they are complete."""
    return sorted(int(path.parent.name.removeprefix("step_")) for path in run_dir.glob("step_*/resume.json"))


def wait_for_moment(
    rng: random.Random, job: Job, alone: Reference, seen: Seen, catching: Callable[[], Sequence[int]] | None = None
) -> str:
    """Wait for a moment of the run; returns which.

    Args:
        rng: decides.
        job: the run.
        alone: how long it takes.
        seen: looks on meanwhile.
        catching: lists the processes that must be ready for a signal by then; before that Python has its own handlers,
            and nothing of ours is there to be saved.
    """
    moment = rng.choice(("while starting", "while training", "while training", "while saving"))
    record = rng.randrange(1, N_STEPS)
    step_s = rng.uniform(0, alone.seconds / N_STEPS)
    if catching:
        wait_for(lambda: bool(pids := catching()) and all(catches(pid, signal.SIGTERM) for pid in pids), job)
    if moment == "while starting":
        time.sleep(rng.uniform(0, alone.seconds / 2))
        seen.look()
        return moment

    def has_come() -> bool:
        seen.look()
        return n_records(seen.run_dir) >= record

    wait_for(has_come, job)
    if moment == "while saving":
        wait_for((seen.run_dir / ".saving").exists, job)
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


def check_resumed(ended: Ended, saved: int) -> None:
    """Refuse a start that goes on from an older step than what was saved.

    Raises:
        BrokenPromise: it does.
    """
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
        raise BrokenPromise(f"has other files: {sorted(names ^ _names(theirs))}")
    if (mine / "latest").read_text() != f"{last}\n":
        raise BrokenPromise("`latest` does not name its last step")


def _curve(run_dir: Path) -> Iterator[dict[str, object]]:
    for line in (run_dir / "metrics.jsonl").read_text().splitlines():
        yield {
            key: value
            for key, value in json.loads(line).items()
            if key not in _CHANGING and not key.startswith("step_s/")
        }


def _names(run_dir: Path) -> set[str]:
    """What lies in a run directory, but for steps, of which a stopped run may keep others, event files and the plot."""
    return {path.name for path in run_dir.iterdir() if not path.name.startswith(("step_", "events.", "loss.png"))}
