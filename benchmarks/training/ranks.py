"""Training tokens/s of two ranks of one thread each beside one process of two threads, at the same global batch.

    python -m benchmarks.training.ranks [--shape quick small] [--rounds 8] [--steps 2] [--accumulation 4]

Both accumulate the gradients of as many micro-batches, so those of a rank are half as large; both use the optimizer of
pretraining, whose work the ranks share. They take turns, on two cores that nothing else uses.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from statistics import median

from benchmarks import figures, turns
from benchmarks.training.ours import SHAPES, Shape, new_loader, new_state, random_tokens, train_in_turns

# The quick start's step has more sequences than the shape that is compared with peers.
MEASURED = {"quick": SHAPES["quick"]._replace(batch=32), "small": SHAPES["small"]}
MODULE = "benchmarks.training.ranks"
ONE, TWO = "one process, two threads", "two ranks, one thread each"


def main() -> None:
    parser = figures.parser(__doc__)
    parser.add_argument("--shape", nargs="*", choices=list(MEASURED), default=list(MEASURED))
    parser.add_argument("--rounds", type=int, default=8, help="turns of each")
    parser.add_argument("--steps", type=int, default=2, help="optimizer steps per turn")
    parser.add_argument("--accumulation", type=int, default=4, help="micro-batches of a step")
    parser.add_argument("--threads", type=int, help=argparse.SUPPRESS)
    args = figures.parse(parser, rounds=1, steps=1, shape=["quick"])
    if args.threads:
        _work(MEASURED[args.shape[0]], args.steps, args.accumulation, args.threads)
        return
    measured: list[figures.Figure] = []
    for name in args.shape:
        flags = [f"--steps={args.steps}", f"--accumulation={args.accumulation}", "--shape", name]
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
        workers = {
            ONE: turns.start("-m", MODULE, *flags, "--threads=2"),
            TWO: turns.start(*launcher, "-m", MODULE, *flags, "--threads=1"),
        }
        measured += _report(name, args.steps, turns.take_turns(workers, args.rounds))
    figures.write(args, measured)


def _report(name: str, steps: int, answers: dict[str, list[turns.Answer]]) -> list[figures.Figure]:
    shape = MEASURED[name]
    print(f"{name}: {shape}")
    rates = {
        label: [shape.n_tokens * steps / turn["seconds"] for turn in of_label[1:]]
        for label, of_label in answers.items()
    }
    for label, of_label in rates.items():
        print(f"{label:28}{figures.spread(of_label, 0):>28} tokens/s, {answers[label][0]['dtype']}")
    ratios = [two / one for two, one in zip(rates[TWO], rates[ONE], strict=True)]
    print(f"{'two ranks over one process':28}{figures.spread(ratios):>28}", flush=True)
    return [
        figures.Figure(f"{name} shape, {ONE}", median(rates[ONE]), "tokens/s"),
        figures.Figure(f"{name} shape, {TWO}", median(rates[TWO]), "tokens/s"),
        figures.Figure(f"{name} shape, two ranks over one process", median(ratios), "ratio"),
    ]


def _work(shape: Shape, steps: int, accumulation: int, threads: int) -> None:
    from babyllm.runtime import RuntimeConfig, start
    from babyllm.training.stages.pretraining_config import PretrainConfig

    config = RuntimeConfig(device="cpu", compile=False, threads=threads)
    with tempfile.TemporaryDirectory() as folder, start(config) as runtime:
        tokens = random_tokens(Path(folder, "tokens"), shape.model.vocab_size)
        loader = new_loader(tokens, shape, runtime, shape.batch // runtime.world_size // accumulation)
        train_in_turns(new_state(shape, loader, runtime, PretrainConfig().optim), steps)


if __name__ == "__main__":
    main()
