"""Runs jobs in processes of their own: started once, it imports torch, and each job's ranks are forked from it.

    one line {"job", "ranks", "output", "arguments"} -> process ids, one per rank -> exit statuses when all have ended

Importing torch takes seconds, forking milliseconds. Before the fork nothing happens but imports, in one thread, so a
job's process is as new as one started by hand: its own process group, DDP, optimizer and random generators.
"""

import hashlib
import json
import os
import runpy
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonargparse  # noqa: F401 (imported before the fork, not in each job)
import matplotlib.figure  # noqa: F401
import tensorboard.compat.proto.event_pb2
import tensorboard.summary.writer.record_writer  # noqa: F401
import torch
import torch._dynamo  # torch.optim imports it at its first step, which takes seconds
from torch import nn
from training_fixtures import CPU, SCRIPT, recording, stopping, tiny_config, tiny_state, weights

import babyllm.training.run  # noqa: F401
from babyllm.data.batch import Batch
from babyllm.objectives import LossTerms
from babyllm.objectives.lm import language_model
from babyllm.runtime import Runtime, start
from babyllm.training import checkpoint
from babyllm.training.loop import train
from babyllm.training.state import Every, TrainState

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
KEEP_ALL = 100


def first_half(data: str, out: str) -> None:
    """With dropout a straight run and one that ends after 10 steps; straight runs by dtype; one without dropout."""
    with start(CPU) as runtime:
        _run(runtime, data, Path(out, "fp32"), "straight", dropout=0.1, save_every=0)
        _run(runtime, data, Path(out, "fp32"), "half", dropout=0.1, last=10)
        for dtype in ("bf16", "fp16"):
            _run(runtime, data, Path(out, dtype), "straight", dropout=0.1)
        _run(runtime, data, Path(out, "plain"), "straight")


def second_half(data: str, out: str, elsewhere: str) -> None:
    """Go on from step 10 of those runs; without dropout from what another number of ranks left."""
    with start(CPU) as runtime:
        for dtype in DTYPES:
            half = Path(out, dtype, "half" if dtype == "fp32" else "straight")
            _run(runtime, data, Path(out, dtype), "resumed", dropout=0.1, resume=half)
        _run(runtime, data, Path(out, "plain"), "moved", resume=Path(elsewhere, "plain", "straight"))


def _run(
    runtime: Runtime,
    data: str,
    folder: Path,
    name: str,
    *,
    dropout: float = 0.0,
    last: int = 20,
    save_every: int = 10,
    resume: Path | None = None,
) -> None:
    runtime = replace(runtime, dtype=DTYPES.get(folder.name, torch.float32))
    config = tiny_config(Path(data), dropout=dropout, micro_batch=4 // runtime.world_size)
    state = tiny_state(config, runtime)
    # A scale that overflows at once, and again and again as it grows.
    state.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**30, growth_interval=3, enabled=folder.name == "fp16")
    if resume:
        checkpoint.load(state, checkpoint.step_directories(resume)[10])
    losses: list[float] = []
    skips: list[int] = []
    rows: list[list[int]] = []
    first, n_calls = state.step, 0

    def loss(model: nn.Module, batch: Batch) -> LossTerms:
        nonlocal n_calls
        n_calls += 1
        if runtime.world_size == 1 or n_calls > 1:  # DDP has a first pass that does not count
            rows.extend(batch["tokens"].tolist())
        return language_model(model, batch)

    every = [
        recording(losses),
        Every(1, lambda state: skips.append(state.skipped)),
        Every(save_every, lambda state: checkpoint.save(state, folder / name, None, KEEP_ALL)),
        stopping(last),
    ]
    train(state, loss, config.plan, every)
    seen = {"losses": losses, "skips": skips, "rows": rows, "digest": _digest(state)}
    (folder / f"{name}-{first}-{runtime.rank}.json").write_text(json.dumps(seen))


def _digest(state: TrainState) -> str:
    return hashlib.sha256(weights(state).numpy().tobytes()).hexdigest()


def poisoned(data: str, out: str) -> None:
    """Gradients that are not finite in step 3, on the last rank alone, with and without a scaler."""
    with start(CPU) as runtime:
        for name in ("fp32", "fp16"):
            state = tiny_state(config := tiny_config(Path(data)), replace(runtime, dtype=DTYPES[name]))
            is_last = runtime.rank == runtime.world_size - 1
            seen: dict[str, list[Any]] = {"digest": [], "skipped": [], "grad_norm": []}

            def loss(model: nn.Module, batch: Batch, state: TrainState = state, is_last: bool = is_last) -> LossTerms:
                terms = language_model(model, batch)
                factor = float("inf") if is_last and state.step == 2 else 1.0
                return LossTerms({"token": terms.sums["token"] * factor}, terms.metrics)

            def look(state: TrainState, seen: dict[str, list[Any]] = seen) -> None:
                seen["digest"].append(_digest(state))
                seen["skipped"].append(state.skipped)
                seen["grad_norm"].append(repr(state.grad_norm))

            train(state, loss, replace(config.plan, steps=5), [Every(1, look)])
            Path(out, f"{name}-{runtime.rank}.json").write_text(json.dumps(seen))


def reductions(data: str, out: str) -> None:
    """Sums over ranks in one step of four micro-batches, and the gradient that comes of them."""
    with start(CPU) as runtime:
        state = tiny_state(config := tiny_config(Path(data), micro_batch=1), runtime)
        gradients: list[list[float]] = []

        def look(state: TrainState) -> None:
            gradients.append([float(p.grad.double().sum()) for p in state.model.parameters() if p.grad is not None])

        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            train(state, language_model, replace(config.plan, steps=3, clip_norm=0.0), [Every(1, look)])
        counts = {event.key: event.count for event in profile.key_averages()}
        Path(out, f"{runtime.rank}.json").write_text(json.dumps({"counts": counts, "gradients": gradients}))


def script(arguments: list[str]) -> None:
    """`python train_pretrain.py ARGUMENTS`."""
    sys.argv = [str(SCRIPT), *arguments]
    runpy.run_path(str(SCRIPT), run_name="__main__")


JOBS: dict[str, Callable[..., None]] = {
    job.__name__: job for job in (first_half, second_half, poisoned, reductions, script)
}


def _fork(request: dict[str, Any], rank: int, port: int) -> int:
    pid = os.fork()
    if pid:
        return pid
    ranks = request["ranks"]
    if ranks > 1:
        os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1"}
        os.environ |= {"LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(ranks), "MASTER_PORT": str(port)}
    output = os.open(request["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream, target in ((0, os.open(os.devnull, os.O_RDONLY)), (1, output), (2, output)):
        os.dup2(target, stream)
    try:
        JOBS[request["job"]](**request["arguments"])
    except Exception:
        traceback.print_exc()
        raise SystemExit(1) from None
    raise SystemExit(0)


def main() -> None:
    """Serve until standard input ends."""
    assert threading.active_count() == 1
    for line in sys.stdin:
        request = json.loads(line)
        open(request["output"], "w").close()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        pids = [_fork(request, rank, port) for rank in range(request["ranks"])]
        print(json.dumps(pids), flush=True)
        print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]), flush=True)


if __name__ == "__main__":
    main()
