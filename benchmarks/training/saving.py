"""By how many steps one checkpoint delays training: written while training waits, and written beside it.

    python -m benchmarks.training.saving [--shape quick large 250m] [--steps 2] [--rounds 5]
    torchrun --standalone --nproc_per_node=2 -m benchmarks.training.saving

A turn is a few steps with one save at its beginning, and ends when that save is complete. Turns without a save, with
one that training waits for, and with one beside training alternate, so that a machine whose speed drifts slows all
alike. The delay is the median difference to the turn without a save of the same round, over the median step. The same
in processor time shows what a save costs where training leaves no core free. "blocked" is the time for which the save
itself kept training from going on. Each rank has one thread.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from babyllm.model.config import ModelConfig
from benchmarks import figures
from benchmarks.training.ours import SHAPES, Shape, new_loader, new_state, random_tokens

if TYPE_CHECKING:
    from babyllm.runtime import Runtime
    from babyllm.training.state import TrainState

# The quick start's step has more sequences than the shape that is compared with peers.
MEASURED = {
    "quick": SHAPES["quick"]._replace(batch=32),
    "large": SHAPES["large"],
    "250m": Shape(ModelConfig(32000, 16, 1024, 16, 8, max_seq_len=128), 4, 128),
}
WAYS = ("none", "waiting", "beside")


@dataclass
class Turns:
    """What the turns of one way took, in seconds: by the clock, of the processor, and blocked in the save."""

    wall: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)
    blocked: list[float] = field(default_factory=list)


def main() -> None:
    parser = figures.parser(__doc__)
    parser.add_argument("--shape", nargs="*", choices=list(MEASURED), default=["quick", "large"])
    parser.add_argument("--steps", type=int, default=2, help="optimizer steps of a turn")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each way")
    args = figures.parse(parser, rounds=1, steps=1, shape=["quick"])

    from babyllm.runtime import RuntimeConfig, start

    measured: list[figures.Figure] = []
    with start(RuntimeConfig(device="cpu", threads=1)) as runtime:
        for name in args.shape:
            with tempfile.TemporaryDirectory() as folder:
                turns = _turns(MEASURED[name], args.steps, args.rounds, runtime, Path(folder))
            if runtime.is_main:
                measured += _report(name, args.steps, turns, runtime.world_size)
        if runtime.is_main:
            figures.write(args, measured)


def _turns(shape: Shape, steps: int, rounds: int, runtime: Runtime, folder: Path) -> dict[str, Turns]:
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

    tokens = random_tokens(folder / "tokens", shape.model.vocab_size)
    state = new_state(shape, new_loader(tokens, shape, runtime), runtime)
    n_steps = steps * len(WAYS) * (rounds + 1)
    train(state, language_model, Plan(steps=n_steps + steps), [Every(steps, turn)])
    return turns


def _report(name: str, steps: int, turns: dict[str, Turns], n_ranks: int) -> list[figures.Figure]:
    step_s, step_cpu_s = (median(times) / steps for times in (turns["none"].wall, turns["none"].processor))
    print(f"{name}: {MEASURED[name]}, {n_ranks} x 1 thread, {step_s:.3f} s a step")
    print(f"{'delay in steps':16}{'by the clock':>26}{'of the processor':>26}{'blocked':>10}")
    measured: list[figures.Figure] = []
    for way in WAYS[1:]:
        by_clock, of_processor = (
            [(mine - none) / step for mine, none in zip(mines, nones, strict=True)]
            for mines, nones, step in (
                (turns[way].wall, turns["none"].wall, step_s),
                (turns[way].processor, turns["none"].processor, step_cpu_s),
            )
        )
        blocked = median(turns[way].blocked) / step_s
        shown = f"{figures.spread(by_clock, 3):>26}{figures.spread(of_processor, 3):>26}"
        print(f"{way:16}{shown}{blocked:>10.3f}", flush=True)
        where = f"{name} shape, {n_ranks} ranks, {way}"
        measured.append(figures.Figure(f"delay by one checkpoint, {where}", median(by_clock), "steps"))
        measured.append(figures.Figure(f"delay in processor time, {where}", median(of_processor), "steps"))
        measured.append(figures.Figure(f"time in the save itself, {where}", blocked, "steps"))
    return measured


if __name__ == "__main__":
    main()
