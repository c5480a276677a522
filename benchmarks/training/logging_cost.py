"""The share of a training step that logging and metrics take: records, TensorBoard, the progress line, the means.

    python -m benchmarks.training.logging_cost [--rounds 6] [--steps 30]

A run of the quick start's model and step with the default `log_every`. Timed are the run's logging action and the means
that the loop adds up for it after each micro-batch; the rest of the step is what they are compared with.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import ParamSpec, TypeVar

from benchmarks import figures
from benchmarks.training.ours import SHAPES, new_loader, new_state, random_tokens

SHAPE = SHAPES["quick"]._replace(batch=32)
P = ParamSpec("P")
R = TypeVar("R")


class Clock:
    """Seconds spent in the functions that it times."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def timed(self, function: Callable[P, R]) -> Callable[P, R]:
        """The function, whose time is added up here."""

        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            began = time.perf_counter()
            result = function(*args, **kwargs)
            self.seconds += time.perf_counter() - began
            return result

        return call


def main() -> None:
    parser = figures.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=6, help="turns, after one that warms up")
    parser.add_argument("--steps", type=int, default=30, help="optimizer steps per turn")
    args = figures.parse(parser, rounds=1, steps=10)
    shares, per_step_ms = _measure(args.rounds, args.steps)
    print(f"logging and metrics: {figures.spread(shares, 3)} % of a step, {figures.spread(per_step_ms, 3)} ms a step")
    measured = figures.Figure("logging and metrics, of a step", median(shares), "%")
    figures.write(args, [measured, figures.Figure("logging and metrics", median(per_step_ms), "ms per step")])


def _measure(n_rounds: int, n_steps: int) -> tuple[list[float], list[float]]:
    """Percentages of the turns' time, and milliseconds per step."""
    import babyllm
    from babyllm.objectives.lm import language_model
    from babyllm.runtime import RuntimeConfig, start
    from babyllm.training.run import open_run
    from babyllm.training.stages.pretraining_config import PretrainConfig
    from babyllm.training.state import Every

    plan = babyllm.Plan(steps=(n_rounds + 1) * n_steps)
    with tempfile.TemporaryDirectory() as folder, start(RuntimeConfig(device="cpu", compile=False)) as runtime:
        tokens = random_tokens(Path(folder, "tokens"), SHAPE.model.vocab_size)
        config = PretrainConfig(run_dir=f"{folder}/run")
        state = new_state(SHAPE, new_loader(tokens, SHAPE, runtime), runtime, config.optim)
        clock, marks = Clock(), []
        state.add_metrics = clock.timed(state.add_metrics)  # type: ignore[method-assign]

        def mark(state: object) -> None:
            marks.append((time.perf_counter(), clock.seconds))

        with open_run(config, state, None, plan) as run:
            logging = run.logging(config.log_every, SHAPE.seq_len)
            every = [logging._replace(run=clock.timed(logging.run)), Every(n_steps, mark)]
            babyllm.train(state, language_model, plan, every)
    turns = [(b[0] - a[0], b[1] - a[1]) for a, b in pairwise(marks)]
    return [100 * spent / whole for whole, spent in turns], [1e3 * spent / n_steps for _, spent in turns]


if __name__ == "__main__":
    main()
