"""How long commands take to start, and a training run to its first finished step, beside `import torch` alone.

    python -m benchmarks.training.start [--rounds 5]

Each is a new process; they take turns. The step is one of the quick start's model, not compiled, in one process, on
random tokens; its end is when the run's progress line first appears. Processor seconds are those of the process.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import NamedTuple

from benchmarks import figures
from benchmarks.training.ours import SHAPES, random_tokens

ROOT = Path(__file__).resolve().parents[2]
FLAGS = (
    *("--runtime.processes=1", "--runtime.device=cpu", "--runtime.compile=false", "--model.preset=nano"),
    *("--log_every=1", "--eval_every=0", "--save_every=0", "--prompts=[]", "--data.seq_len=128", "--plan.steps=1000"),
)
STEP = "command to the first step"


class Took(NamedTuple):
    """Seconds by the clock, and of the processor."""

    wall_s: float
    cpu_s: float


def main() -> None:
    parser = figures.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="turns of each")
    args = figures.parse(parser, rounds=1)
    with tempfile.TemporaryDirectory() as name:
        tokens = random_tokens(Path(name, "tokens"), SHAPES["quick"].model.vocab_size)
        contestants: dict[str, Callable[[], Took]] = {
            "python": lambda: took("-c", "pass"),
            "import torch": lambda: took("-c", "import torch"),
            "import babyllm": lambda: took("-c", "import babyllm"),
            "babyllm --help": lambda: took("-m", "babyllm", "--help"),
            "train_pretrain.py --help": lambda: took("train_pretrain.py", "--help"),
            STEP: lambda: first_step(tokens),
        }
        turns: dict[str, list[Took]] = {label: [] for label in contestants}
        for i in range(args.rounds + 1):
            for label, run in contestants.items():
                turn = run()
                turns[label] += [turn] if i else []  # the first turn fills the page cache and compiles the modules
    torch, step = turns["import torch"], turns[STEP]
    turns[f"{STEP}, beyond import torch"] = [
        Took(a.wall_s - b.wall_s, a.cpu_s - b.cpu_s) for a, b in zip(step, torch, strict=True)
    ]
    print(f"{'seconds, medians of ' + str(args.rounds):48}{'by the clock':>24}{'of the processor':>24}")
    for label, of_label in turns.items():
        print(f"{label:48}{''.join(f'{figures.spread(values):>24}' for values in zip(*of_label, strict=True))}")
    ours = {label: of_label for label, of_label in turns.items() if label not in ("python", "import torch", STEP)}
    figures.write(
        args,
        (
            figures.Figure(f"{label}{title}", median(took[i] for took in of_label), "s")
            for label, of_label in ours.items()
            for i, title in enumerate(("", ", processor time"))
        ),
    )


def took(*arguments: str) -> Took:
    """Python with these arguments, from its start to its end."""
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, *arguments], cwd=ROOT, stdout=subprocess.DEVNULL)
    return _ended(process, began, None)


def first_step(tokens: Path) -> Took:
    """A training run, from its start to the progress line of its first step."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "train_pretrain.py", f"--run_dir={folder}/run", f"--data.path={tokens}", *FLAGS]
        began = time.perf_counter()
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert process.stdout
        if not any(line.startswith("step 1/") for line in process.stdout):
            raise SystemExit("the run ended before its first step; its error is above")
        wall_s = time.perf_counter() - began
        process.kill()
        return _ended(process, began, wall_s)


def _ended(process: subprocess.Popen[str] | subprocess.Popen[bytes], began: float, wall_s: float | None) -> Took:
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if wall_s is None and process.returncode:
        raise SystemExit(f"status {process.returncode}; the error is above")
    return Took(wall_s or time.perf_counter() - began, usage.ru_utime + usage.ru_stime)


if __name__ == "__main__":
    main()
