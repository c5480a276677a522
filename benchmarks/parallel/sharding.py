"""Memory of each rank under zero3 beside one process, and what a checkpoint costs there.

    python -m benchmarks.parallel.sharding [--shape 50m 250m] [--ranks 4] [--steps 2]

"held" are the bytes of weights, gradients and optimizer state after a step. Growths are those of a process's resident
memory: in the steps over the one before the model was made, and in a save and in its reading over the one before each.
"blocked" is the time for which a save kept training from going on, in steps. Of all ranks the highest number counts.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from babyllm.model.config import ModelConfig
from benchmarks import figures
from benchmarks.training.ours import Shape, new_loader, random_tokens, train_steps

MEASURED = {
    "quick": Shape(ModelConfig(4096, 4, 128, 4, 2, max_seq_len=128), 8, 128),
    "50m": Shape(ModelConfig(16384, 8, 512, 8, 4, max_seq_len=128), 4, 128),
    "250m": Shape(ModelConfig(32000, 16, 1024, 16, 8, max_seq_len=128), 4, 128),
}
UNITS = {"held": "MB", "in steps": "MB", "in a save": "MB", "in reading": "MB", "blocked": "steps"}


def main() -> None:
    parser = figures.parser(__doc__)
    parser.add_argument("--shape", nargs="*", choices=list(MEASURED), default=["50m", "250m"])
    parser.add_argument("--ranks", type=int, default=4, help="processes that share the model")
    parser.add_argument("--steps", type=int, default=2, help="steps before the numbers are taken")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = figures.parse(parser, steps=1, shape=["quick"])
    if args.worker:
        _work(MEASURED[args.shape[0]], args.steps)
        return
    measured: list[figures.Figure] = []
    for name in args.shape:
        print(f"{name}: {MEASURED[name]}")
        found = {ranks: _run(name, ranks, args.steps) for ranks in (1, args.ranks)}
        for ranks, values in found.items():
            print(f"{ranks} ranks: " + ", ".join(f"{key} {x:,.2f} {UNITS[key]}" for key, x in values.items()))
            measured += [figures.Figure(f"{name}, {ranks} ranks, {key}", x, UNITS[key]) for key, x in values.items()]
        share = found[args.ranks]["held"] / found[1]["held"]
        print(f"held by a rank over one process: {share:.3f}", flush=True)
        measured.append(figures.Figure(f"{name}, held by a rank of {args.ranks} over one process", share, ""))
    figures.write(args, measured)


def _run(name: str, ranks: int, steps: int) -> dict[str, float]:
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}", "-m", __spec__.name]
    command = [sys.executable, *launcher, "--worker", f"--steps={steps}", "--shape", name]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return dict(json.loads(output.splitlines()[-1]))


def _work(shape: Shape, steps: int) -> None:
    import torch

    from babyllm.model.transformer import Transformer
    from babyllm.optim.build import make_optimizer
    from babyllm.optim.config import OptimConfig
    from babyllm.parallel.config import ParallelConfig
    from babyllm.parallel.distribute import prepare
    from babyllm.parallel.tensors import local
    from babyllm.runtime import RuntimeConfig, start
    from babyllm.training.checkpoint import Saver, resume
    from babyllm.training.state import TrainState

    config = RuntimeConfig(device="cpu", dtype="float32", threads=1)
    with start(config) as runtime, tempfile.TemporaryDirectory() as own:
        name = runtime.fresh_key("folder")
        if runtime.is_main:
            random_tokens(Path(own, "tokens"), shape.model.vocab_size, 1 << 16)
            runtime.post(name, own)
        runtime.barrier()
        folder = Path(runtime.posted(name) or own)
        before = _resident()
        model = prepare(
            Transformer(shape.model), runtime, ParallelConfig("zero3" if runtime.world_size > 1 else "none")
        )
        _forget_peak()
        loader = new_loader(folder / "tokens", shape, runtime)
        state = TrainState(model, make_optimizer(model, OptimConfig()), runtime.scaler(), loader, runtime)
        train_steps(state, steps)
        began = time.perf_counter()
        train_steps(state, 1)
        step_s = time.perf_counter() - began
        values = {"in steps": _peak() - before}
        tensors = [x for p in model.parameters() for x in (p.detach(), p.grad) if x is not None]
        tensors += [x for of in state.optimizer.state.values() for x in of.values() if isinstance(x, torch.Tensor)]
        values["held"] = sum(local(x).nbytes for x in tensors) / 1e6
        before, saver = _resident(), Saver(folder / "run", None, 1)
        _forget_peak()
        began = time.perf_counter()
        saver.save(state)
        values["blocked"] = (time.perf_counter() - began) / step_s
        saver.join()
        runtime.barrier()
        values["in a save"] = _peak() - before
        before = _resident()
        _forget_peak()
        resume(folder / "run", state, None)
        values["in reading"] = _peak() - before
        highest = {key: max(_of_all(runtime.rank, runtime.world_size, x, runtime.sum)) for key, x in values.items()}
        if runtime.is_main:
            print(json.dumps(highest), flush=True)
        runtime.barrier()


def _of_all(rank: int, n_ranks: int, value: float, sum_of: object) -> list[float]:
    """The value of each rank."""
    assert callable(sum_of)
    return list(sum_of([value if other == rank else 0.0 for other in range(n_ranks)]))


def _resident() -> float:
    return _status("VmRSS")


def _peak() -> float:
    return _status("VmHWM")


def _forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


def _status(key: str) -> float:
    """A number of this process's memory in MB."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith(key))


if __name__ == "__main__":
    main()
