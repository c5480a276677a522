"""Training tokens/s of babyllm beside its peers and beside the matrix products alone, in one run.

    python -m benchmarks.training.train [--shape quick small large] [--rounds 8] [--steps 3] [--only NAME ...]
    python -m benchmarks.training.train --device cuda [--preset 92m 218m 160m] [--batch 8] [--seq_len 1024]

Each contestant is a process of its own that trains the same shape on the same number of tokens with clipping and AdamW.
They take turns, a few steps each; rates are medians over the turns. babyllm runs its real loop, loader included; "gemm"
runs only the products of the linear layers, forward and backward, and is what no implementation can pass. "floor" adds
the least of all else that the model's arithmetic needs, so what lies between it and babyllm can be gained. MFU is the
model's FLOP/s over the device's peak for products of that type: of a known GPU the data sheet's, else what one large
product reaches. On a GPU babyllm and the peers that can be are also measured compiled, and the most memory that each
process held is a column.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

from babyllm.model.config import flops_per_token
from babyllm.model.options import PRESETS, ModelOptions
from benchmarks import figures, turns
from benchmarks.training.bounds import BOUNDS, Make
from benchmarks.training.ours import (
    SHAPES,
    Shape,
    new_loader,
    new_state,
    now,
    peak_memory,
    random_tokens,
    train_in_turns,
)
from benchmarks.training.peers import COMPILED, PEERS, installed

CONTESTANTS = {
    "babyllm": ("babyllm", "auto", False),
    "babyllm compiled": ("babyllm", "auto", True),
    "babyllm bf16": ("babyllm", "bfloat16", False),
    "babyllm bf16 compiled": ("babyllm", "bfloat16", True),
    "babyllm fp32": ("babyllm", "float32", False),
    **{f"{name} bf16": (name, "bfloat16", False) for name in installed()},
    **{f"{name} fp32": (name, "float32", False) for name in installed()},
    **{f"{name} bf16 compiled": (name, "bfloat16", True) for name in installed() if name in COMPILED},
    "gemm bf16": ("gemm", "bfloat16", False),
    "gemm fp32": ("gemm", "float32", False),
    "floor bf16": ("floor", "bfloat16", False),
    "floor fp32": ("floor", "float32", False),
}


GPU_PRESETS = ("92m", "218m", "160m")


class Task(NamedTuple):
    """What every contestant does in a turn."""

    device: str
    name: str
    shape: Shape
    steps: int

    @property
    def flags(self) -> list[str]:
        """The command line by which a worker finds it again."""
        kind = "shape" if self.name in SHAPES else "preset"
        sizes = [f"--batch={self.shape.batch}", f"--seq_len={self.shape.seq_len}", f"--steps={self.steps}"]
        return [f"--device={self.device}", f"--{kind}={self.name}", *sizes]


def main() -> None:
    args = _arguments()
    tasks = list(_tasks(args))
    if args.worker:
        kind, dtype, compiled = args.worker
        WORKERS[kind](tasks[0], dtype, compiled == "True")
        return
    if missing := set(PEERS) - set(installed()):
        print(f"not installed, so not measured: {', '.join(sorted(missing))}")
    measured: list[figures.Figure] = []
    for task in tasks:
        workers = {name: _start(CONTESTANTS[name], task) for name in args.only or _usual(task.device)}
        measured += _report(task, turns.take_turns(workers, args.rounds))
    figures.write(args, measured)


def _arguments() -> argparse.Namespace:
    parser = figures.parser(__doc__)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--shape", nargs="*", choices=list(SHAPES), help="shapes and batches; default: all of them")
    parser.add_argument("--preset", nargs="*", choices=list(PRESETS), help="shapes of presets; on cuda the default")
    parser.add_argument("--batch", type=int, help="sequences of a step; default: the shape's, of a preset 8")
    parser.add_argument("--seq_len", type=int, help="tokens of a sequence; default: the shape's, of a preset 1024")
    parser.add_argument("--rounds", type=int, default=8, help="turns of each contestant")
    parser.add_argument("--steps", type=int, default=3, help="optimizer steps per turn")
    parser.add_argument("--only", nargs="*", choices=list(CONTESTANTS), help="default: all in the device's own dtype")
    parser.add_argument("--worker", nargs=3, metavar=("KIND", "DTYPE", "COMPILE"), help=argparse.SUPPRESS)
    return figures.parse(parser, rounds=1, steps=1, shape=["quick"])


def _tasks(args: argparse.Namespace) -> Iterator[Task]:
    presets = args.preset or (GPU_PRESETS if args.device == "cuda" and not args.shape else ())
    for name in presets or args.shape or SHAPES:
        model, batch, seq_len = SHAPES.get(name, (None, 8, 1024))
        batch, seq_len = args.batch or batch, args.seq_len or seq_len
        model = model or ModelOptions(name).build(seq_len=seq_len)
        yield Task(args.device, name, Shape(model, batch, seq_len), args.steps)


def _usual(device: str) -> list[str]:
    """babyllm, the peers and the products, in the dtype that the device multiplies natively."""
    from babyllm.runtime.machine import multiplies_bfloat16

    dtype = "bf16" if device == "cuda" or multiplies_bfloat16() else "fp32"
    others = [name for name in CONTESTANTS if name.endswith(dtype) and not name.startswith("babyllm")]
    compiled = [name for name in CONTESTANTS if name.endswith("bf16 compiled") and device == "cuda"]
    return ["babyllm", *others, *compiled]


def _start(contestant: tuple[str, str, bool], task: Task) -> turns.Worker:
    return turns.start("-m", "benchmarks.training.train", *task.flags, "--worker", *map(str, contestant))


def _report(task: Task, answers: dict[str, list[turns.Answer]]) -> list[figures.Figure]:
    """Print a table; returns its figures."""
    print(f"{task.name}: {task.shape}, {task.steps} steps a turn, on {task.device}")
    seconds = {name: [turn["seconds"] for turn in of_name[1:]] for name, of_name in answers.items()}
    bounds = [name for name in seconds if name.split()[0] in BOUNDS]
    ours = next((name for name in seconds if name.startswith("babyllm")), "")
    print(f"{'':24}{'tokens/s':>10}{'MFU':>8}" + "".join(f"{'of ' + bound:>24}" for bound in bounds), end="")
    print(f"{f'{ours} is' * bool(ours):>24}   notes")
    for name, of_name in answers.items():
        rate = task.shape.n_tokens * task.steps / median(seconds[name])
        mfu = _mfu(task, rate, of_name[0]["dtype"])
        shares = [figures.spread(_ratios(seconds[bound], seconds[name])) for bound in bounds]
        faster = figures.spread(_ratios(seconds[name], seconds[ours])) if ours and name != ours else ""
        waits = [turn["waited"] for turn in of_name[1:] if "waited" in turn]
        note = of_name[0]["dtype"] + (f", waits {median(waits):.2%} for data" if waits else "")
        note += f", {of_name[-1]['memory']:.2f} GiB" if "memory" in of_name[-1] else ""
        print(f"{name:24}{rate:>10,.0f}{mfu:>8.1%}" + "".join(f"{share:>24}" for share in shares), end="")
        print(f"{faster:>24}   {note}", flush=True)
    return list(_figures(task, seconds, ours, answers)) if ours else []


def _figures(
    task: Task, seconds: dict[str, list[float]], ours: str, answers: dict[str, list[turns.Answer]]
) -> Iterator[figures.Figure]:
    dtype = {"float32": "fp32", "bfloat16": "bf16"}.get(answers[ours][0]["dtype"], "fp16")
    title = f"training at the {task.name} shape, {dtype}" + (" on a GPU" if task.device == "cuda" else "")
    of_dtype = [name for name in seconds if answers[name][0]["dtype"] == answers[ours][0]["dtype"]]
    mine = {name.endswith("compiled"): name for name in reversed(of_dtype) if name.startswith("babyllm")}
    for name in mine.values():
        kind = title + (", compiled" if name.endswith("compiled") else "")
        rate = task.shape.n_tokens * task.steps / median(seconds[name])
        yield figures.Figure(kind, rate, "tokens/s")
        if "memory" in answers[name][-1]:
            yield figures.Figure(f"{kind}, peak memory", answers[name][-1]["memory"], "GiB")
            yield figures.Figure(f"{kind}, MFU", _mfu(task, rate, answers[name][0]["dtype"]), "ratio")
    for name, meaning in (("gemm", "the products"), ("floor", "the floor")):
        if bound := seconds.get(f"{name} {dtype}"):
            yield figures.Figure(f"{title}, share of {meaning}", median(_ratios(bound, seconds[ours])), "ratio")
    peers = {name: median(_ratios(seconds[name], seconds[ours])) for name in seconds if name.split()[0] in PEERS}
    for name, ratio in peers.items():
        kind = " compiled" if name.endswith("compiled") else ""
        yield figures.Figure(f"{title}, against {name.split()[0]}{kind}", ratio, "ratio")
    if peers:
        yield figures.Figure(f"{title}, against the best peer", min(peers.values()), "ratio")


def _mfu(task: Task, rate: float, dtype: str) -> float:
    """The share of the device's peak that the model's arithmetic reaches at `rate` tokens/s."""
    import torch

    from babyllm.runtime.machine import peak_flops

    peak = peak_flops(torch.device(task.device), getattr(torch, dtype))
    return rate * flops_per_token(task.shape.model, task.shape.seq_len) / peak


def _ratios(numerators: Sequence[float], denominators: Sequence[float]) -> list[float]:
    return [a / b for a, b in zip(numerators, denominators, strict=True)]


def _babyllm(task: Task, dtype: str, compiled: bool) -> None:
    from babyllm.runtime import RuntimeConfig, start

    config = RuntimeConfig(device=task.device, dtype=dtype, compile=compiled)  # type: ignore[arg-type]
    with tempfile.TemporaryDirectory() as folder, start(config) as runtime:
        tokens = random_tokens(Path(folder, "tokens"), task.shape.model.vocab_size)
        state = new_state(task.shape, new_loader(tokens, task.shape, runtime), runtime)
        train_in_turns(state, task.steps)


def _other(make: Make) -> Callable[[Task, str, bool], None]:
    """A worker for a peer or a bound."""

    def work(task: Task, dtype: str, compiled: bool) -> None:
        import torch

        device, kind = torch.device(task.device), getattr(torch, dtype)
        options = {"compiled": True} if compiled else {}
        step = make(task.shape.model, task.shape.batch, task.shape.seq_len, device, kind, **options)

        def turn() -> turns.Answer:
            began = now(device)
            for _ in range(task.steps):
                step()
            return {"seconds": now(device) - began, "dtype": dtype, **peak_memory(device)}

        turns.serve(turn)

    return work


WORKERS = {"babyllm": _babyllm, **{name: _other(make) for name, make in (BOUNDS | PEERS).items()}}

if __name__ == "__main__":
    main()
