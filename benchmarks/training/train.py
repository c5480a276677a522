"""Training tokens/s of babyllm beside its peers and beside the matrix products alone, in one run.

    python benchmarks/train.py [--shape quick|small|large] [--rounds 8] [--steps 3] [--only NAME ...] [--json OUT.json]
    python benchmarks/train.py --device cuda [--preset 160m] [--batch 8] [--seq_len 1024]

Each contestant is a process of its own that trains the same shape on the same number of tokens with clipping and AdamW.
They take turns, a few steps each, so that a machine whose speed drifts slows all of them alike; rates are medians over
the turns. babyllm runs its real loop, loader included; "gemm" runs only the products of the linear layers, forward and
backward, and is what no implementation can pass. MFU is the model's FLOP/s over the device's peak for products of that
type: of a known GPU the data sheet's, else what one large product reaches.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

from babyllm.model.config import ModelConfig, flops_per_token
from babyllm.model.options import PRESETS, ModelOptions
from benchmarks.training.peers import PEERS, installed, step_of

if TYPE_CHECKING:
    import torch

# Shapes for a few cores, with the sequences and tokens of a step.
SHAPES = {
    "quick": (ModelConfig(4096, 4, 128, 4, 2, max_seq_len=128, tie_embeddings=True), 16, 128),
    "small": (ModelConfig(8192, 6, 256, 4, 2, 672, max_seq_len=256, tie_embeddings=True), 16, 256),
    "large": (ModelConfig(32000, 8, 512, 8, 4, max_seq_len=512, tie_embeddings=True), 8, 512),
}

CONTESTANTS = {
    "babyllm": ("babyllm", "auto", False),
    "babyllm compiled": ("babyllm", "auto", True),
    "babyllm bf16": ("babyllm", "bfloat16", False),
    "babyllm bf16 compiled": ("babyllm", "bfloat16", True),
    "babyllm fp32": ("babyllm", "float32", False),
    **{f"{name} bf16": (name, "bfloat16", False) for name in installed()},
    **{f"{name} fp32": (name, "float32", False) for name in installed()},
    "gemm bf16": ("gemm", "bfloat16", False),
    "gemm fp32": ("gemm", "float32", False),
}


class Task(NamedTuple):
    """What every contestant does."""

    device: str
    name: str
    batch: int
    seq_len: int
    steps: int

    @property
    def shape(self) -> ModelConfig:
        """Of the model."""
        return SHAPES[self.name][0] if self.name in SHAPES else ModelOptions(self.name).build(seq_len=self.seq_len)

    @property
    def n_tokens(self) -> int:
        """Of a step."""
        return self.batch * self.seq_len


def main() -> None:
    args = _arguments()
    is_gpu = args.device == "cuda"
    name = args.preset or args.shape or ("160m" if is_gpu else "small")
    _, batch, seq_len = SHAPES.get(name, (None, 8, 1024))
    task = Task(args.device, name, args.batch or batch, args.seq_len or seq_len, args.steps)
    if args.worker:
        kind, dtype, compiled = args.worker
        WORKERS[kind](task, dtype, compiled == "True")
        return
    workers = {name: _start(CONTESTANTS[name], task) for name in args.only or _usual(is_gpu)}
    facts = {name: _turn(worker) for name, worker in workers.items()}
    turns: dict[str, list[float]] = {name: [] for name in workers}
    waits: dict[str, list[float]] = {}
    for _ in range(args.rounds):
        for name, worker in workers.items():
            answer = _turn(worker)
            turns[name].append(answer["seconds"])
            if "waited" in answer:
                waits.setdefault(name, []).append(answer["waited"])
    for worker in workers.values():
        worker.kill()
    _report(task, turns, waits, facts)
    if args.json:
        args.json.write_text(json.dumps({"task": task, "turns_s": turns, "facts": facts}, indent=1) + "\n")


def _usual(is_gpu: bool) -> list[str]:
    """babyllm, the peers and the products, in the dtype that the device multiplies natively."""
    from babyllm.runtime.machine import multiplies_bfloat16

    dtype = "bf16" if is_gpu or multiplies_bfloat16() else "fp32"
    return ["babyllm", *(name for name in CONTESTANTS if name.endswith(dtype) and not name.startswith("babyllm"))]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--shape", choices=list(SHAPES), help="shape and batch; default: small")
    parser.add_argument("--preset", choices=list(PRESETS), help="shape of a preset; default on cuda: 160m")
    parser.add_argument("--batch", type=int, help="sequences of a step; default: the shape's, of a preset 8")
    parser.add_argument(
        "--seq_len", type=int, help="tokens of a sequence; default: those of the shape, of a preset 1024"
    )
    parser.add_argument("--rounds", type=int, default=8, help="turns of each contestant")
    parser.add_argument("--steps", type=int, default=3, help="optimizer steps per turn")
    parser.add_argument("--only", nargs="*", choices=list(CONTESTANTS), help="default: all in the device's own dtype")
    parser.add_argument("--json", type=Path, help="also write every turn's seconds here")
    parser.add_argument("--worker", nargs=3, metavar=("KIND", "DTYPE", "COMPILE"), help=argparse.SUPPRESS)
    return parser.parse_args()


def _report(task: Task, turns: dict[str, list[float]], waits: dict[str, list[float]], facts: dict[str, Any]) -> None:
    shape, name = task.shape, task.name
    print(f"{name}: {shape.n_layers} layers, width {shape.d_model}, vocabulary {shape.vocab_size}, on {task.device}")
    print(f"{task.batch} x {task.seq_len} tokens, {task.steps} steps a turn")
    bounds = [bound for bound in ("gemm bf16", "gemm fp32") if bound in turns]
    ours = next((name for name in turns if name.startswith("babyllm")), None)
    print(f"{'':24}{'tokens/s':>10}{'MFU':>8}" + "".join(f"{'of ' + bound:>14}" for bound in bounds), end="")
    print(f"{f'{ours} is' if ours else '':>24}   notes")
    for name, seconds in turns.items():
        shares = [median(b / s for b, s in zip(turns[bound], seconds, strict=True)) for bound in bounds]
        faster = [s / o for s, o in zip(seconds, turns[ours], strict=True)] if ours else []
        spread = f"{median(faster):.2f} ({min(faster):.2f} to {max(faster):.2f})" if faster and name != ours else ""
        rate = task.n_tokens * task.steps / median(seconds)
        mfu = rate * flops_per_token(shape, task.seq_len) / facts[name]["peak_flops"]
        note = facts[name]["note"] + (f", waits {median(waits[name]):.2%} for data" if name in waits else "")
        print(f"{name:24}{rate:>10,.0f}{mfu:>8.1%}" + "".join(f"{r:>14.2f}" for r in shares), end="")
        print(f"{spread:>24}   {note}")


def _start(contestant: tuple[str, str, bool], task: Task) -> subprocess.Popen[str]:
    kind = "shape" if task.name in SHAPES else "preset"
    given = {"device": task.device, kind: task.name, "batch": task.batch, "seq_len": task.seq_len}
    flags = [f"--{name}={value}" for name, value in given.items() if value is not None]
    command = [sys.executable, __file__, *flags, f"--steps={task.steps}", "--worker", *map(str, contestant)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _turn(worker: subprocess.Popen[str]) -> dict[str, Any]:
    assert worker.stdin and worker.stdout
    worker.stdin.write("go\n")
    worker.stdin.flush()
    for line in worker.stdout:
        if line.startswith("{"):
            answer: dict[str, Any] = json.loads(line)
            return answer
    raise SystemExit("a contestant ended early; its error is above")


def _serve(turn: Callable[[], None], device: torch.device, dtype: torch.dtype, note: str) -> None:
    """Answer each line on stdin with a turn; the first turn warms up and answers with what is known beforehand."""
    for i, _ in enumerate(sys.stdin):
        began = _now(device)
        turn()
        seconds = _now(device) - began
        print(json.dumps({"seconds": seconds} if i else _facts(device, dtype, note)), flush=True)


def _facts(device: torch.device, dtype: torch.dtype, note: str) -> dict[str, Any]:
    from babyllm.runtime.machine import peak_flops

    return {"note": note, "peak_flops": peak_flops(device, dtype)}


def _now(device: torch.device) -> float:
    """Seconds, when the device has done all that was asked of it."""
    import torch

    getattr(torch, device.type).synchronize()
    return time.perf_counter()


def _babyllm(task: Task, dtype: str, compiled: bool) -> None:
    import numpy as np

    import babyllm
    from babyllm.data.loader import Loader
    from babyllm.data.order.shuffle import Shuffled
    from babyllm.data.row_config import Share
    from babyllm.data.rows.windows import Windows
    from babyllm.objectives.lm import language_model
    from babyllm.optim.build import make_optimizer
    from babyllm.optim.config import OptimConfig
    from babyllm.runtime import RuntimeConfig, start
    from babyllm.runtime.precision import dtype_name
    from babyllm.store.shard_writer import ShardWriter
    from babyllm.store.shards import open_tokens
    from babyllm.training.parallel import choose_attention
    from babyllm.training.state import Every, TrainState

    shape = task.shape
    config = RuntimeConfig(device=task.device, dtype=dtype, compile=compiled)  # type: ignore[arg-type]
    with tempfile.TemporaryDirectory() as folder, start(config) as runtime:
        device = runtime.device
        writer = ShardWriter(Path(folder, "tokens"), shape.vocab_size, 2, "")
        writer.add(np.random.default_rng(0).integers(3, shape.vocab_size, 1 << 21).tolist(), "random", "train", 1)
        writer.finish()
        rows = Windows(open_tokens(Path(folder, "tokens")).stream("train"), task.seq_len, 2)
        pin = device.type == "cuda"
        loader = Loader(Shuffled(rows, 0), Share(task.batch, task.batch), seed=0, pin_memory=pin)
        model = babyllm.Transformer(shape).to(device)
        choose_attention(model, runtime, task.seq_len)
        state = TrainState(model, make_optimizer(model, OptimConfig()), runtime.scaler(), loader, runtime)
        began, turns = 0.0, 0

        def report(state: TrainState) -> None:
            nonlocal began, turns
            seconds = _now(device) - began
            _, waited_s = state.take_times()
            facts = _facts(device, runtime.dtype, dtype_name(runtime.dtype)) if turns == 0 else {}
            turns += 1
            print(json.dumps(facts or {"seconds": seconds, "waited": waited_s / seconds}), flush=True)
            if not sys.stdin.readline():
                state.stop_reason = "end of the benchmark"
            state.take_times()
            began = _now(device)

        sys.stdin.readline()
        babyllm.train(state, language_model, babyllm.Plan(steps=1_000_000), [Every(task.steps, report, at_end=False)])


def _peer(name: str) -> Callable[[Task, str, bool], None]:
    def work(task: Task, dtype: str, compiled: bool) -> None:
        import torch

        device, kind = torch.device(task.device), getattr(torch, dtype)
        step = step_of(name)(task.shape, task.batch, task.seq_len, device, kind)

        def turn() -> None:
            for _ in range(task.steps):
                step()

        _serve(turn, device, kind, f"{dtype}{' autocast' if kind is torch.bfloat16 else ''}")

    return work


def _gemm(task: Task, dtype: str, compiled: bool) -> None:
    import torch

    shape, device, kind = task.shape, torch.device(task.device), getattr(torch, dtype)
    width, ff, kv_width = shape.d_model, shape.ff_width, shape.head_dim * shape.kv_heads
    layer = [(width, width + 2 * kv_width), (width, width), (width, 2 * ff), (ff, width)]
    sizes = layer * shape.n_layers + [(width, shape.vocab_size)]

    def filled(rows: int, columns: Sequence[int]) -> dict[int, torch.Tensor]:
        return {n: torch.randn(rows, n, dtype=kind, device=device) for n in set(columns)}

    inputs, grads = filled(task.n_tokens, [i for i, _ in sizes]), filled(task.n_tokens, [o for _, o in sizes])
    weights = {size: torch.randn(size[1], size[0], dtype=kind, device=device) for size in set(sizes)}

    @torch.no_grad()
    def turn() -> None:
        for _ in range(task.steps):
            for size in sizes:
                x, g, w = inputs[size[0]], grads[size[1]], weights[size]
                torch.nn.functional.linear(x, w)
                _ = g @ w
                _ = g.t() @ x

    _serve(turn, device, kind, "products of the linear layers only")


WORKERS = {"babyllm": _babyllm, "gemm": _gemm, **{name: _peer(name) for name in PEERS}}

if __name__ == "__main__":
    main()
