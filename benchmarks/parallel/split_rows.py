"""Memory and time of a step on long rows that ranks share (`parallel.context`), beside one process on as many cores.

    python -m benchmarks.parallel.split_rows [--shape 4096] [--ranks 2] [--steps 3] [--documents]

"activations" is the growth of a process's resident memory in steps, over that with weights, gradients and moments, on
the rank where it is highest; "step" is the median time of a step.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from babyllm.model.config import ModelConfig
from benchmarks import figures
from benchmarks.training.ours import Shape

SHAPES = {
    "quick": Shape(ModelConfig(1024, 2, 64, 4, 2, max_seq_len=512), 1, 512),
    "4096": Shape(ModelConfig(8192, 6, 256, 4, 2, max_seq_len=4096), 1, 4096),
    "16384": Shape(ModelConfig(8192, 6, 256, 4, 2, max_seq_len=16384), 1, 16384),
}
DOCUMENT = 700  # tokens of a document of packed rows


def main() -> None:
    parser = figures.parser(__doc__)
    parser.add_argument("--shape", choices=list(SHAPES), default="4096")
    parser.add_argument("--ranks", type=int, default=2, help="processes that share a row")
    parser.add_argument("--steps", type=int, default=3, help="steps that are timed")
    parser.add_argument("--documents", action="store_true", help="whether rows hold documents")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = figures.parse(parser, steps=1, shape="quick")
    if args.worker:
        _work(SHAPES[args.shape], args.ranks, args.steps, args.documents)
        return
    print(f"{args.shape}: {SHAPES[args.shape]}")
    measured: list[figures.Figure] = []
    for ranks in (1, args.ranks):
        found = _run(args, ranks)
        print(f"{ranks} ranks: activations {found['activations']:,.0f} MB, step {found['step']:.2f} s", flush=True)
        name = f"{args.shape}{', documents' * args.documents}, {ranks} ranks"
        measured += [figures.Figure(f"{name}, {key}", found[key], unit) for key, unit in _UNITS.items()]
    figures.write(args, measured)


_UNITS = {"activations": "MB", "step": "s"}


def _run(args: argparse.Namespace, ranks: int) -> dict[str, float]:
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}", "-m", __spec__.name]
    flags = [f"--ranks={args.ranks}", f"--steps={args.steps}", "--shape", args.shape, *["--documents"] * args.documents]
    command = [sys.executable, *launcher, "--worker", *flags]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return dict(json.loads(output.splitlines()[-1]))


def _work(shape: Shape, ranks: int, steps: int, has_documents: bool) -> None:
    import os

    import torch

    from babyllm.model.transformer import Transformer
    from babyllm.optim.build import make_optimizer
    from babyllm.optim.config import OptimConfig
    from babyllm.parallel.config import ParallelConfig
    from babyllm.parallel.distribute import loss_factor, prepare, replicate
    from babyllm.parallel.forms import choose_forms
    from babyllm.runtime import RuntimeConfig, seed_all, start

    n = int(os.environ["WORLD_SIZE"])
    config = RuntimeConfig(device="cpu", dtype="float32", threads=ranks // n)
    with start(config, context=n) as runtime:
        seed_all(0)
        model = prepare(Transformer(shape.model), runtime, ParallelConfig(context=n)).train()
        choose_forms(model, runtime, shape.seq_len, is_packed=has_documents)
        optimizer = make_optimizer(model, OptimConfig())
        ids = torch.randint(shape.model.vocab_size, (shape.batch, shape.seq_len + 1))
        documents = torch.arange(shape.seq_len).expand(shape.batch, -1) // DOCUMENT if has_documents else None

        def step(module: torch.nn.Module, length: int) -> None:
            packed = None if documents is None else documents[:, :length]
            nats = module(ids[:, :length], ids[:, 1 : length + 1], None, packed, n_targets=length)
            (nats.mean() * loss_factor(module, runtime)).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        module = replicate(model, lambda wrapped: wrapped(ids[:, :64], ids[:, 1:65]).mean(), runtime)
        step(module, 64)  # makes moments
        before, seconds = _memory("VmRSS"), []
        for _ in range(steps + 1):
            runtime.barrier()
            began = time.perf_counter()
            step(module, shape.seq_len)
            seconds.append(time.perf_counter() - began)
        grown = _memory("VmHWM") - before
        highest = max(runtime.sum([grown if rank == runtime.rank else 0.0 for rank in range(n)]))
        if runtime.is_main:
            print(json.dumps({"activations": highest, "step": median(seconds[1:])}), flush=True)


def _memory(key: str) -> float:
    """A number of this process's memory in MB."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith(key))


if __name__ == "__main__":
    main()
