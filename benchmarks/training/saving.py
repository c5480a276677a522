"""By how many steps one checkpoint delays training: written while training waits, and written beside it.

    python benchmarks/training/saving.py [--shape quick|large] [--steps 4] [--rounds 5] [--ranks 1] [--json OUT.json]

A turn is a few steps with one save at its beginning, and ends when that save is complete. Turns without a save, with
one that training waits for, and with one beside training alternate, so that a machine whose speed drifts slows all
alike. The delay is the median difference to the turn without a save of the same round, over the median step. The same
in processor time shows what a save costs where training leaves no core free. "blocked" is the time for which the save
itself kept training from going on.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from babyllm.model.config import ModelConfig
from babyllm.runtime import RuntimeConfig
from babyllm.runtime.launching.launch import launch

if TYPE_CHECKING:
    from babyllm.runtime import Runtime
    from babyllm.training.state import TrainState

# Shapes of models, with the sequences and tokens of a step.
SHAPES = {
    "quick": (ModelConfig(4096, 4, 128, 4, 2, max_seq_len=128, tie_embeddings=True), 32, 128),
    "large": (ModelConfig(32000, 8, 512, 8, 4, max_seq_len=512, tie_embeddings=True), 8, 512),
}
WAYS = ("none", "waiting", "beside")


@dataclass(frozen=True)
class Task:
    """What is measured, in each rank."""

    shape: str
    steps: int
    rounds: int
    json: Path | None
    runtime: RuntimeConfig


@dataclass
class Turns:
    """What the turns of one way took, in seconds: by the clock, of the processor, and blocked in the save."""

    wall: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)
    blocked: list[float] = field(default_factory=list)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=list(SHAPES), default="quick", help="shape and batch")
    parser.add_argument("--steps", type=int, default=4, help="optimizer steps of a turn")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each way")
    parser.add_argument("--ranks", type=int, default=1, help="processes of one thread each")
    parser.add_argument("--json", type=Path, help="also write every turn here")
    args = parser.parse_args()
    runtime = RuntimeConfig(device="cpu", threads=1, processes=args.ranks)
    launch(measure, Task(args.shape, args.steps, args.rounds, args.json, runtime))


def measure(task: Task) -> None:
    """Take all turns, as one rank; rank 0 reports."""
    from babyllm.runtime import start

    with tempfile.TemporaryDirectory() as folder, start(task.runtime) as runtime:
        turns = _turns(task, runtime, Path(folder))
        if runtime.is_main:
            _report(task, turns)


def _turns(task: Task, runtime: Runtime, folder: Path) -> dict[str, Turns]:
    from babyllm.objectives.lm import language_model
    from babyllm.schedule import Plan
    from babyllm.training.checkpoint import Saver
    from babyllm.training.loop import train
    from babyllm.training.state import Every

    turns = {way: Turns() for way in WAYS}
    saver, began, blocked_s, n_turns = Saver(folder / "run", None, 2), (0.0, 0.0), 0.0, 0

    def turn(state: TrainState) -> None:
        nonlocal began, blocked_s, n_turns
        saver.join()
        if n_turns > len(WAYS):  # the first of each way warms up
            mine = turns[WAYS[(n_turns - 1) % len(WAYS)]]
            mine.wall.append(time.perf_counter() - began[0])
            mine.processor.append(time.process_time() - began[1])
            mine.blocked.append(blocked_s)
        way, n_turns = WAYS[n_turns % len(WAYS)], n_turns + 1
        began = time.perf_counter(), time.process_time()
        if way != "none":
            saver.save(state)
        if way == "waiting":
            saver.join()
        blocked_s = time.perf_counter() - began[0]
        runtime.barrier()

    n_steps = task.steps * len(WAYS) * (task.rounds + 1)
    train(_state(task, runtime, folder), language_model, Plan(steps=n_steps + task.steps), [Every(task.steps, turn)])
    shutil.rmtree(folder / "run", ignore_errors=True)
    return turns


def _state(task: Task, runtime: Runtime, folder: Path) -> TrainState:
    """A model with random weights, and rows of random tokens."""
    import numpy as np

    import babyllm
    from babyllm.data.loader import Loader
    from babyllm.data.order.shuffle import Shuffled
    from babyllm.data.row_config import Share
    from babyllm.data.rows.windows import Windows
    from babyllm.optim.build import make_optimizer
    from babyllm.optim.config import OptimConfig
    from babyllm.store.shard_writer import ShardWriter
    from babyllm.store.shards import open_tokens
    from babyllm.training.parallel import choose_attention
    from babyllm.training.state import TrainState

    config, batch, seq_len = SHAPES[task.shape]
    writer = ShardWriter(folder / "tokens", config.vocab_size, 2, "")
    writer.add(np.random.default_rng(0).integers(3, config.vocab_size, 1 << 19).tolist(), "random", "train", 1)
    writer.finish()
    rows = Windows(open_tokens(folder / "tokens").stream("train"), seq_len, 2)
    share = Share(batch, batch // runtime.world_size, runtime.rank, runtime.world_size)
    model = babyllm.Transformer(config)
    choose_attention(model, runtime, seq_len)
    optimizer = make_optimizer(model, OptimConfig())
    return TrainState(model, optimizer, runtime.scaler(), Loader(Shuffled(rows, 0), share, seed=0), runtime)


def _report(task: Task, turns: dict[str, Turns]) -> None:
    step_s, step_cpu_s = (median(times) / task.steps for times in (turns["none"].wall, turns["none"].processor))
    config, batch, seq_len = SHAPES[task.shape]
    print(f"{task.shape}: {config.n_layers} layers, width {config.d_model}, vocabulary {config.vocab_size}")
    print(f"{task.runtime.processes} x 1 thread, {batch} x {seq_len} tokens a step, {step_s:.3f} s a step")
    print(f"{'delay in steps':16}{'by the clock':>26}{'of the processor':>26}{'blocked':>10}")
    for way in WAYS[1:]:
        delays = [
            [(mine - none) / step for mine, none in zip(mines, nones, strict=True)]
            for mines, nones, step in (
                (turns[way].wall, turns["none"].wall, step_s),
                (turns[way].processor, turns["none"].processor, step_cpu_s),
            )
        ]
        shown = [f"{median(d):.3f} ({min(d):.3f} to {max(d):.3f})" for d in delays]
        print(f"{way:16}{shown[0]:>26}{shown[1]:>26}{median(turns[way].blocked) / step_s:>10.3f}")
    if task.json:
        plain = {way: vars(turns[way]) for way in WAYS}
        task.json.write_text(json.dumps({"shape": task.shape, "steps": task.steps, "turns": plain}, indent=1) + "\n")


if __name__ == "__main__":
    main()
