"""The memory that `babyllm plan` says, against the memory that training takes: resident, in fresh processes.

    python -m benchmarks.planning.planned [--jobs one two] [--rounds 1]

Each job is trained for three steps by babyllm's own loop, on one process or on two ranks. Measured is the peak of
memory that the kernel counts as resident (VmHWM in /proc/self/status), less that of the same process before it has a
model. Planned are all parts but the process itself. The C library returns freed memory at once here, so that the peak
is that of the tensors. With `--kept` it keeps freed memory, as runs on a CPU let it do for speed, and more stays
resident. The last figure is the process itself: resident after two steps of a model of no size. Linux with glibc only.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from babyllm.model.config import ModelConfig
from babyllm.model.options import PRESETS
from babyllm.optim.config import OptimConfig
from babyllm.parallel.config import ParallelConfig
from babyllm.planning import Adapter, Job, training_memory
from benchmarks import figures
from benchmarks.history import ROOT

if TYPE_CHECKING:
    from babyllm.runtime import Runtime
    from babyllm.training.state import TrainState

MODULE = "benchmarks.planning.planned"
TINY, LARGE = PRESETS["tiny"], PRESETS["92m"]
MUON, MEAN = OptimConfig(matrices="muon"), OptimConfig(average=0.99)
ONE = {
    "nano, 16 x 128": Job(PRESETS["nano"], 128, 16),
    "tiny, 16 x 256": Job(TINY, 256, 16),
    "tiny, 4 x 256, 2 passes, average": Job(TINY, 256, 4, passes=2, optim=MEAN),
    "tiny, 8 x 512, selective": Job(replace(TINY, activation_checkpointing="selective"), 512, 8),
    "tiny, 16 x 256, blocks again": Job(replace(TINY, activation_checkpointing=True), 256, 16),
    "tiny, 16 x 256, attention in blocks": Job(TINY, 256, 16, attention="blocks"),
    "tiny, 8 x 256, lora": Job(TINY, 256, 8, adapter=Adapter(8)),
    "92m, 1 x 512": Job(LARGE, 512, 1),
    "92m, 1 x 128, muon": Job(LARGE, 128, 1, optim=MUON),
    "92m, 2 x 256, lora nf4": Job(LARGE, 256, 2, adapter=Adapter(8, base="nf4")),
}
TWO = {
    f"92m of 4 layers, 2 x 128, {shard}": Job(
        replace(LARGE, n_layers=4), 128, 2, ranks=2, parallel=ParallelConfig(shard=shard)
    )
    for shard in ("none", "zero2", "zero3")
}
TWO["tiny, 16 x 256, zero3"] = Job(TINY, 256, 16, ranks=2, parallel=ParallelConfig(shard="zero3"))
JOBS = {"one": ONE, "two": TWO}


def main() -> None:
    parser = figures.parser(__doc__)
    parser.add_argument("--jobs", nargs="+", default=["one", "two"], choices=list(JOBS), help="processes of the jobs")
    parser.add_argument("--rounds", type=int, default=1, help="runs of each job; the least memory counts")
    parser.add_argument("--kept", action="store_true", help="let the C library keep freed memory, as runs do")
    parser.add_argument("--first", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    args = figures.parse(parser, jobs=["one"], first=1)
    if args.worker:
        _work(JOBS[args.worker[0]][args.worker[1]], is_kept=args.kept)
        return
    found: list[figures.Figure] = []
    bare: list[float] = []
    for kind in args.jobs:
        for name, job in list(JOBS[kind].items())[: args.first]:
            process, measured = min(_measured(kind, name, args.kept) for _ in range(args.rounds))
            planned = sum(size for part, size in training_memory(job).items() if part != "process") / 2**20
            bare.append(process)
            print(
                f"{name:40}{measured:>8,.0f} MiB, planned {planned:>8,.0f} MiB, {planned / measured - 1:+.1%}",
                flush=True,
            )
            how = ", freed memory kept" if args.kept else ""
            found.append(figures.Figure(f"peak memory of training, {name}{how}", measured, "MiB"))
            found.append(figures.Figure(f"planned over measured memory, {name}{how}", planned / measured, "ratio"))
    print(f"a process before it has a model: {figures.spread(bare, 0)} MiB")
    figures.write(args, [*found, figures.Figure("memory of a process before it has a model", min(bare), "MiB")])


def _measured(kind: str, name: str, is_kept: bool) -> tuple[float, float]:
    """MiB of a process before it has a model, and the peak beyond that; of the first rank."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"] if kind == "two" else []
    command = [sys.executable, *launcher, "-m", MODULE, "--worker", kind, name, *(["--kept"] if is_kept else [])]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True, text=True)
    process, peak = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("[")))
    return process, peak - process


def _work(job: Job, is_kept: bool) -> None:
    """Train three steps of a job in this process, and print its resident memory before and at the peak, in MiB."""
    from babyllm.runtime import RuntimeConfig, start
    from benchmarks.training.ours import train_steps

    small = replace(job, model=ModelConfig(99, 2, 16, 2), seq_len=16, micro_batch=1, passes=1, optim=OptimConfig())
    with (
        tempfile.TemporaryDirectory() as folder,
        start(RuntimeConfig(device="cpu", dtype="float32", threads=1)) as here,
    ):
        if not is_kept:
            _return_freed_memory()
        train_steps(_state(small, here, Path(folder, "small")), 2)  # loads all that a step needs
        before = _resident("VmRSS")
        state = _state(job, here, Path(folder, "tokens"))
        train_steps(state, 1)
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # resets VmHWM, which making the model set
        train_steps(state, 2)
        if here.is_main:
            print(json.dumps([before, _resident("VmHWM")]), flush=True)


def _state(job: Job, here: Runtime, folder: Path) -> TrainState:
    """A run of a job on random tokens, at step 0."""
    from babyllm.model.adapt.lora import LoraConfig, add_lora
    from babyllm.model.attention import set_attention
    from babyllm.model.transformer import Transformer
    from babyllm.optim.average import make_average
    from babyllm.optim.build import make_optimizer
    from babyllm.parallel.distribute import prepare
    from babyllm.training.state import TrainState
    from benchmarks.training.ours import Shape, new_loader, random_tokens

    shape = Shape(job.model, job.micro_batch * job.passes * job.ranks, job.seq_len)
    tokens = random_tokens(folder, job.model.vocab_size, 8 * shape.n_tokens)
    loader = new_loader(tokens, shape, here, job.micro_batch)
    model, lora = Transformer(job.model), job.adapter
    if lora.rank:
        add_lora(model, LoraConfig(lora.rank, targets=lora.targets, base=lora.base))
    set_attention(model, job.attention)
    model = prepare(model, here, job.parallel)
    optimizer, average = make_optimizer(model, job.optim), make_average(model, job.optim)
    return TrainState(model, optimizer, here.scaler(), loader, here, average=average)


def _return_freed_memory() -> None:
    """Make blocks of 64 KiB and more memory of their own, which is returned to the system when a tensor is freed."""
    trim_threshold, mmap_threshold = -1, -3  # mallopt(3)
    mallopt = ctypes.CDLL(None).mallopt
    mallopt(mmap_threshold, 1 << 16)
    mallopt(trim_threshold, 1 << 16)


def _resident(name: str) -> float:
    """A line of /proc/self/status, in MiB."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) / 1024


if __name__ == "__main__":
    main()
