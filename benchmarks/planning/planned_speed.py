"""The speed that `babyllm plan --device=cpu` says, against the speed of training.

    python -m benchmarks.planning.planned_speed [--jobs quick small ...] [--rounds 3] [--steps 3]

A process that plans and one that trains take turns, so that a machine whose speed drifts slows both alike. Training is
babyllm's own loop on random tokens, with the data's loading; both have as many threads as there are cores. The plan is
made for the form of attention that is measured to be faster, as a run takes it.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import median

from babyllm.model.options import PRESETS
from babyllm.optim.config import OptimConfig
from babyllm.planning import Job, cpu_speed
from benchmarks import figures, turns
from benchmarks.training.ours import SHAPES, Shape, new_loader, new_state, random_tokens, train_in_turns

MODULE = "benchmarks.planning.planned_speed"
MUON = OptimConfig(matrices="muon")
KINDS = ("train", "plan")


def _job(shape: Shape, **changes: object) -> Job:
    return replace(Job(shape.model, shape.seq_len, shape.batch), **changes)  # type: ignore[arg-type]


JOBS = {
    **{name: _job(shape) for name, shape in SHAPES.items()},
    "quick, muon": _job(SHAPES["quick"], optim=MUON),
    "small, muon": _job(SHAPES["small"], optim=MUON),
    "quick, two passes": _job(SHAPES["quick"], micro_batch=8, passes=2),
    "small, selective": _job(
        SHAPES["small"]._replace(model=replace(SHAPES["small"].model, activation_checkpointing="selective"))
    ),
    "small, blocks again": _job(
        SHAPES["small"]._replace(model=replace(SHAPES["small"].model, activation_checkpointing=True))
    ),
    "preset 92m, 1 x 512, muon": Job(PRESETS["92m"], 512, 1, optim=MUON),
}


def main() -> None:
    parser = figures.parser(__doc__)
    parser.add_argument("--jobs", nargs="+", default=list(JOBS), choices=list(JOBS))
    parser.add_argument("--rounds", type=int, default=3, help="turns of both")
    parser.add_argument("--steps", type=int, default=3, help="optimizer steps per turn")
    parser.add_argument("--worker", nargs=2, metavar=("KIND", "JOB"), help=argparse.SUPPRESS)
    args = figures.parse(parser, jobs=["quick"], rounds=1, steps=1)
    if args.worker:
        {"plan": _plan, "train": _train}[args.worker[0]](JOBS[args.worker[1]], args.steps)
        return
    found: list[figures.Figure] = []
    print(f"{'':28}{'trained':>26}{'planned':>26}{'planned over trained':>24}   tokens/s")
    for name in args.jobs:
        workers = {kind: turns.start("-m", MODULE, f"--steps={args.steps}", "--worker", kind, name) for kind in KINDS}
        answers = turns.take_turns(workers, args.rounds)
        tokens = JOBS[name].tokens * JOBS[name].passes * args.steps
        trained = [tokens / turn["seconds"] for turn in answers["train"][1:]]
        planned = [turn["tokens_per_s"] for turn in answers["plan"][1:]]
        ratios = [a / b for a, b in zip(planned, trained, strict=True)]
        print(
            f"{name:28}{figures.spread(trained, 0):>26}{figures.spread(planned, 0):>26}{figures.spread(ratios):>24}",
            flush=True,
        )
        found.append(figures.Figure(f"training, {name}", median(trained), "tokens/s"))
        found.append(figures.Figure(f"planned over measured speed, {name}", median(ratios), "ratio"))
    figures.write(args, found)


def _plan(job: Job, steps: int) -> None:
    """In a worker: plan in each turn, with the form of attention that a run would choose."""
    import torch

    from babyllm.model.attention import fastest_form
    from babyllm.runtime import RuntimeConfig, start

    with start(RuntimeConfig(device="cpu", dtype="float32")):
        shape = job.seq_len, job.model.n_heads, job.model.kv_heads, job.model.head_width
        form = fastest_form(shape, torch.float32)
        chosen = replace(job, attention="blocks" if form == "blocks" else "fused")
        turns.serve(lambda: {"tokens_per_s": cpu_speed(chosen).tokens_per_s})


def _train(job: Job, steps: int) -> None:
    """In a worker: train some steps in each turn."""
    from babyllm.runtime import RuntimeConfig, start

    shape = Shape(job.model, job.micro_batch * job.passes, job.seq_len)
    with tempfile.TemporaryDirectory() as folder, start(RuntimeConfig(device="cpu", dtype="float32")) as runtime:
        tokens = random_tokens(Path(folder, "tokens"), job.model.vocab_size)
        loader = new_loader(tokens, shape, runtime, job.micro_batch)
        train_in_turns(new_state(shape, loader, runtime, job.optim), steps)


if __name__ == "__main__":
    main()
