"""Where the time of a training step goes, by part, on one thread.

    python -m benchmarks.training.profile_step [--shape quick small large] [--rounds 3] [--steps 2]

PyTorch's profiler times each operation of the real loop with the optimizer of pretraining; an operation belongs to the
part that it, or what has called it, is named for. What is left of the time by the clock is Python between operations,
some of which is the profiler's own. The shapes take turns.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from benchmarks import figures
from benchmarks.training.ours import SHAPES, new_loader, new_state, random_tokens, train_steps

if TYPE_CHECKING:
    from babyllm.training.state import TrainState

Parts = defaultdict[str, float]
# The first part with a name that an operation, or one of its callers, contains; `Optimizer.step` calls them all.
PARTS = {
    "AdamW": ("_fused_adamw_",),
    "Muon": ("Optimizer.",),
    "output layer and loss": ("_TokenLosses",),
    "attention": ("scaled_dot_product", "ScaledDotProduct", "_Blocks"),
    "norms": ("_RMSNorm",),
    "SwiGLU": ("_SwiGLU",),
    "rotation": ("_SplitRotated",),
    "casts": ("aten::_to_copy",),
    "products of the blocks": ("aten::linear", "MmBackward"),
    "embedding": ("embedding", "EmbeddingBackward"),
    "clipping": ("aten::_foreach_norm", "aten::_foreach_mul_", "aten::linalg_vector_norm"),
}
REST, DATA, PYTHON = "other operations", "waiting for data", "Python between operations"
ORDER = (
    *("products of the blocks", "attention", "output layer and loss", "SwiGLU", "rotation", "norms", "embedding"),
    *("casts", "clipping", "AdamW", "Muon", REST, DATA, PYTHON),
)


def main() -> None:
    parser = figures.parser(__doc__)
    parser.add_argument("--shape", nargs="*", choices=list(SHAPES), default=list(SHAPES))
    parser.add_argument("--rounds", type=int, default=3, help="turns of each")
    parser.add_argument("--steps", type=int, default=2, help="steps that a turn profiles")
    args = figures.parse(parser, rounds=1, steps=1, shape=["quick"])
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # or the profiler prints when it starts and stops
    from babyllm.runtime import RuntimeConfig, start
    from babyllm.training.stages.pretraining_config import PretrainConfig

    turns: dict[str, list[Parts]] = {name: [] for name in args.shape}
    config = RuntimeConfig(device="cpu", compile=False, threads=1)
    with tempfile.TemporaryDirectory() as folder, start(config) as runtime:
        states = {}
        for name in args.shape:
            tokens = random_tokens(Path(folder, name), SHAPES[name].model.vocab_size)
            loader = new_loader(tokens, SHAPES[name], runtime)
            states[name] = new_state(SHAPES[name], loader, runtime, PretrainConfig().optim)
            train_steps(states[name], 2)  # the first steps allocate memory and measure
        for _ in range(args.rounds):
            for name, state in states.items():
                turns[name].append(_profiled(state, args.steps))
    figures.write(args, _report(turns, args.steps))


def _profiled(state: TrainState, n_steps: int) -> Parts:
    """Seconds by part of some steps."""
    from torch.profiler import ProfilerActivity, profile

    state.take_times()
    with profile(activities=[ProfilerActivity.CPU], acc_events=True) as profiler:
        began = time.perf_counter()
        train_steps(state, n_steps)
        seconds = time.perf_counter() - began
    parts: Parts = defaultdict(float, {DATA: state.take_times()[1]})
    for event in profiler.events() or ():
        parts[_part(event)] += event.self_cpu_time_total / 1e6
    parts[PYTHON] = seconds - sum(parts.values())
    return parts


def _part(event: Any) -> str:
    """The part that an operation of the profiler belongs to."""
    names = []
    while event is not None:
        names.append(event.name)
        event = event.cpu_parent
    path = " ".join(names)
    return next((part for part, words in PARTS.items() if any(word in path for word in words)), REST)


def _report(turns: dict[str, list[Parts]], n_steps: int) -> list[figures.Figure]:
    """Print a table of percentages; returns its figures."""
    for name in turns:
        print(f"{name}: {SHAPES[name]}")
    print(f"{'% of a step':28}" + "".join(f"{name:>26}" for name in turns))
    measured = []
    for part in ORDER:
        shares = {name: [100 * turn[part] / sum(turn.values()) for turn in of_name] for name, of_name in turns.items()}
        print(f"{part:28}" + "".join(f"{figures.spread(of_name, 1):>26}" for of_name in shares.values()))
        measured += [figures.Figure(f"{name} shape: {part}", median(of_name), "%") for name, of_name in shares.items()]
    whole = [[1e3 * sum(turn.values()) / n_steps for turn in of_name] for of_name in turns.values()]
    print(f"{'a step, ms':28}" + "".join(f"{figures.spread(of_name, 0):>26}" for of_name in whole), flush=True)
    return measured


if __name__ == "__main__":
    main()
