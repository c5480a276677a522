"""Runs jobs in processes of their own: started once, it imports torch, and each job's ranks are forked from it.

    one line {"job", "ranks", "output", "arguments"} -> process ids, one per rank -> exit statuses when all have ended
    one line {"load"}, a module with a table JOBS of more jobs -> "ready"

Importing torch takes seconds, forking milliseconds. Before the fork nothing happens but imports, in one thread, so a
job's process is as new as one started by hand: its own process group, DDP, optimizer and random generators.
"""

import faulthandler
import hashlib
import importlib
import json
import os
import runpy
import shutil
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonargparse  # noqa: F401 (imported before the fork, not in each job)
import matplotlib.figure  # noqa: F401
import numpy as np
import tensorboard.compat.proto.event_pb2  # noqa: F401
import tensorboard.summary.writer.record_writer  # noqa: F401
import torch
import torch._dynamo  # noqa: F401  # torch.optim imports it at its first step, which takes seconds
from alignment_fixtures import contracts, policy_runs
from torch import nn
from training_fixtures import CPU, SCRIPT, recording, stopping, tiny_config, tiny_state, weights

from babyllm import run_directory
from babyllm.__main__ import run as run_command
from babyllm.config import parse
from babyllm.data.batch import Batch, Stream
from babyllm.errors import UserError
from babyllm.objectives import LossTerms
from babyllm.objectives.lm import language_model
from babyllm.runtime import Runtime, start
from babyllm.training import checkpoint
from babyllm.training.loop import train
from babyllm.training.run import open_run
from babyllm.training.stages.fine_tuning import begin
from babyllm.training.stages.fine_tuning_config import FineTuneConfig
from babyllm.training.state import Every, TrainState
from babyllm.training.watch import WatchConfig

# What scripts and commands load late, loaded before the fork.
for late in (
    *("matplotlib.backends.backend_agg", "matplotlib.font_manager", "jinja2.sandbox", "pyarrow.parquet"),
    *("sentencepiece", "tokenizers", "babyllm.training.script", "babyllm.training.stages.task_measure"),
    *(f"babyllm.training.stages.preference.{name}" for name in ("classifier", "dpo", "reward")),
    *(f"babyllm.training.stages.policy.{name}" for name in ("grpo", "ppo")),
    *(f"babyllm.recipes.{name}" for name in ("sample_labels", "sample_pairs")),
    *(f"babyllm.prepare.{name}" for name in ("conversations", "preference_pairs", "raw_texts")),
    *("babyllm.chat.load", "babyllm.planning", "babyllm.data.order.mixing", "babyllm.evaluate.tasks.evaluation"),
):
    importlib.import_module(late)

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
KEEP_ALL = 100
# Of 20 steps; the position in the middle lies in the second stage.
STAGES: list[dict[str, int | float | dict[str, float]]] = [
    {"until": 0.25},
    {"until": 13, "mix": {"left": 0.9, "right": 0.1}},
    {"until": 15, "mix": {"right": 1.0}},
    {"until": 1.0, "mix": {"left": 0.5, "right": 0.5}, "seq_len": 32},
]


class _Recorded:
    """A stream that notes the rows it hands out."""

    def __init__(self, stream: Stream, rows: list[list[int]]) -> None:
        self._stream, self._rows = stream, rows
        self.state_dict, self.load_state_dict = stream.state_dict, stream.load_state_dict
        self.metrics, self.leave_out = stream.metrics, stream.leave_out

    def __iter__(self) -> Iterator[list[Batch]]:
        return self

    def __next__(self) -> list[Batch]:
        batches = next(self._stream)
        for batch in batches:
            self._rows.extend(batch["tokens"].tolist())
        return batches


def straight_runs(data: str, out: str, names: list[str]) -> None:
    """Runs without dropout, "plain" or "staged"."""
    with start(CPU) as runtime:
        for name in names:
            _run(runtime, data, Path(out, name), "straight")


def moved_runs(data: str, out: str, elsewhere: dict[str, str]) -> None:
    """Go on from step 10 of the run in stages, and, by name, of what another number of ranks left."""
    with start(CPU) as runtime:
        _run(runtime, data, Path(out, "staged"), "resumed", resume=Path(out, "staged", "straight"))
        for name, other in elsewhere.items():
            _run(runtime, data, Path(out, name), "moved", resume=Path(other, name, "straight"))


def runs_by_dtype(data: str, out: str) -> None:
    """With dropout a straight run by dtype, and in fp32 one that ends after 10 steps."""
    with start(CPU) as runtime:
        _run(runtime, data, Path(out, "fp32"), "straight", dropout=0.1, save_every=0)
        _run(runtime, data, Path(out, "fp32"), "half", dropout=0.1, last=10)
        for dtype in ("bf16", "fp16"):
            _run(runtime, data, Path(out, dtype), "straight", dropout=0.1)


def resumed_by_dtype(data: str, out: str) -> None:
    """Go on from step 10 of those runs."""
    with start(CPU) as runtime:
        for dtype in DTYPES:
            half = Path(out, dtype, "half" if dtype == "fp32" else "straight")
            _run(runtime, data, Path(out, dtype), "resumed", dropout=0.1, resume=half)


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
    n_micro_batches = 2 if runtime.dtype is torch.float32 else 1
    config = tiny_config(Path(data), dropout=dropout, micro_batch=8 // runtime.world_size // n_micro_batches)
    if folder.name == "staged":
        config = replace(config, data=replace(config.data, stages=STAGES))
    state = tiny_state(config, runtime)
    # A scale that overflows at once, and again and again as it grows.
    state.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**30, growth_interval=3, enabled=folder.name == "fp16")
    if resume:
        checkpoint.load(state, run_directory.step_directories(resume)[10])
    losses: list[float] = []
    skips: list[int] = []
    rows: list[list[int]] = []
    first, state.stream = state.step, _Recorded(state.stream, rows)
    every = [
        recording(losses),
        Every(1, lambda state: skips.append(state.skipped)),
        Every(save_every, lambda state: checkpoint.save(state, folder / name, None, KEEP_ALL)),
        stopping(last),
    ]
    train(state, language_model, config.plan, every)
    seen = {"losses": losses, "skips": skips, "rows": rows, "digest": _digest(state)}
    (folder / f"{name}-{first}-{runtime.rank}.json").write_text(json.dumps(seen))


def _digest(state: TrainState) -> str:
    return hashlib.sha256(weights(state).numpy().tobytes()).hexdigest()


def single_steps(data: str, out: str) -> None:
    """What a few steps do: one that a rank spoils, in fp32 and fp16, and ones of one and of four micro-batches."""
    with start(CPU) as runtime:
        seen: dict[str, Any] = {}
        for name in ("fp32", "fp16"):
            seen[name] = _spoiled_step(replace(runtime, dtype=DTYPES[name]), Path(data))
        for micro_batch in (1, 4):
            seen[f"micro_batch {micro_batch}"] = _reductions(runtime, Path(data), micro_batch)
        seen["short of memory"] = _short_of_memory(runtime, Path(data))
        seen["unshared"] = _unshared_directory(runtime, Path(data), Path(out))
        Path(out, f"{runtime.rank}.json").write_text(json.dumps(seen), encoding="utf-8")


def _spoiled_step(runtime: Runtime, data: Path) -> dict[str, list[Any]]:
    """Train five steps; in the third the gradients are not finite on the last rank alone."""
    config = tiny_config(data)
    state = tiny_state(config, runtime)
    seen: dict[str, list[Any]] = {"digest": [], "skipped": [], "grad_norm": []}

    def loss(model: nn.Module, batch: Batch) -> LossTerms:
        terms = language_model(model, batch)
        if state.step == 2 and runtime.rank == runtime.world_size - 1:
            terms.sums["token"].register_hook(lambda gradient: gradient * float("inf"))
        return terms

    def look(state: TrainState) -> None:
        seen["digest"].append(_digest(state))
        seen["skipped"].append(state.skipped)
        seen["grad_norm"].append(repr(state.grad_norm))

    train(state, loss, replace(config.plan, steps=5), [Every(1, look)])
    return seen


def _reductions(runtime: Runtime, data: Path, micro_batch: int) -> int:
    """How often anything is summed over ranks in two steps."""
    config = tiny_config(data, micro_batch=micro_batch, steps=2)
    state = tiny_state(config, runtime)
    before = _collectives()
    train(state, language_model, config.plan)
    return _collectives() - before


def _short_of_memory(runtime: Runtime, data: Path) -> list[Any]:
    """Losses of three steps of two micro-batches, and all sizes; rank 1 alone has no memory for two sequences."""
    config = tiny_config(data, steps=3)
    config = replace(config, data=replace(config.data, micro_batch=None))
    state, losses, sizes = tiny_state(config, runtime), [], []
    state.stream = _InTwos(state.stream)

    def loss(model: nn.Module, batch: Batch) -> LossTerms:
        sizes.append(len(batch))
        terms = language_model(model, batch)
        if runtime.rank == 1 and len(batch) > 1 and len(sizes) > 1:  # the first pass settles the order of sums
            raise torch.OutOfMemoryError("CUDA out of memory")
        return terms

    train(state, loss, config.plan, [recording(losses)])
    return [losses, sizes]


class _InTwos:
    """The steps of a stream, in micro-batches of two rows."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def __next__(self) -> list[Batch]:
        return [part for batch in next(self._stream) for part in batch.cut(2)]


def _collectives() -> int:
    count: int = torch.distributed.group.WORLD._get_sequence_number_for_group()  # type: ignore[union-attr]
    return count


def _unshared_directory(runtime: Runtime, data: Path, out: Path) -> str:
    """The error of a rank where only rank 0 has the checkpoint of the run."""
    config = replace(tiny_config(data), run_dir=str(out / f"rank{runtime.rank}"))
    state = tiny_state(config, runtime)
    state.step = 7
    checkpoint.save(state, Path(config.run_dir), None, KEEP_ALL)  # which rank 0 alone writes
    try:
        with open_run(config, tiny_state(config, runtime), None, config.plan):
            return "begun"
    except UserError as error:
        return str(error)


def spike(data: str, out: str) -> None:
    """A run that goes back from a loss a hundred times as high as those before; other ranks see one step more."""
    watch = WatchConfig(spike=4.0, window=5, on_spike="rollback")
    with start(CPU) as runtime:
        config = replace(tiny_config(Path(data), steps=16), run_dir=out, watch=watch, keep=9)
        state = tiny_state(config, runtime)

        def loss(model: nn.Module, batch: Batch) -> LossTerms:
            sums, metrics = language_model(model, batch)
            return LossTerms({"token": sums["token"] * (100.0 if batch.rows.start == 80 else 1.0)}, metrics)

        def go_back(state: TrainState, row: int) -> bool:
            if not runtime.is_main:
                while not Path(out, "step_00000008", "resume.json").exists():  # written beside training by rank 0
                    time.sleep(0.01)
                run.directory = Path(out, f"seen_by_{runtime.rank}")
                shutil.copytree(out, run.directory, ignore=shutil.ignore_patterns("seen_by_*", ".*"))
                (run.directory / "step_00000009").mkdir()
                (run.directory / "step_00000009" / "resume.json").touch()
            return run.watch.go_back(state, row)

        with open_run(config, state, None, config.plan) as run:
            every = [run.logging(1, 16), run.saving(4)]
            train(state, loss, config.plan, every, replace(run.watch, go_back=go_back))
        Path(out, f"{runtime.rank}.txt").write_text(_digest(state), encoding="utf-8")


def script(arguments: list[str], name: str = SCRIPT.name) -> None:
    """`python NAME ARGUMENTS`, for a script at the top of the project."""
    path = str(SCRIPT.with_name(name))
    sys.argv = [path, *arguments]
    runpy.run_path(path, run_name="__main__")


def command(arguments: list[str]) -> None:
    """`babyllm ARGUMENTS`."""
    run_command(arguments)


def fine_tuning_steps(runs: dict[str, list[str]]) -> None:
    """Of each run, into a file, the loss of one step, its metrics, and the gradient of all ranks before clipping."""
    with start(CPU) as runtime:
        for out, arguments in runs.items():
            config = parse(FineTuneConfig, arguments, prog="test")
            stage = begin(config, runtime)
            metrics: dict[str, float] = {}
            look = Every(1, lambda state, metrics=metrics: metrics.update(state.take_metrics()))
            train(stage.state, stage.loss, replace(stage.plan, steps=1, clip_norm=0.0), [look])
            gradient = torch.cat([p.grad.flatten() for p in stage.state.model.parameters() if p.grad is not None])
            if runtime.is_main:
                np.savez(out, gradient=gradient.numpy(), **metrics)


JOBS: dict[str, Callable[..., None]] = {
    job.__name__: job
    for job in (
        straight_runs,
        moved_runs,
        runs_by_dtype,
        resumed_by_dtype,
        single_steps,
        spike,
        script,
        command,
        fine_tuning_steps,
        policy_runs,
        contracts,
    )
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
    faulthandler.enable(2)  # a rank that crashes says where
    try:
        JOBS[request["job"]](**request["arguments"])
    except Exception:
        traceback.print_exc()
        raise SystemExit(1) from None
    raise SystemExit(0)


def _load(modules: list[str]) -> None:
    for name in modules:
        JOBS.update(importlib.import_module(name).JOBS)
    assert threading.active_count() == 1
    print(json.dumps("ready"), flush=True)


def main() -> None:
    """Serve until standard input ends; arguments name modules with more jobs."""
    _load(sys.argv[1:])
    for line in sys.stdin:
        request = json.loads(line)
        if "load" in request:
            _load([request["load"]])
            continue
        open(request["output"], "w", encoding="utf-8").close()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        pids = [_fork(request, rank, port) for rank in range(request["ranks"])]
        print(json.dumps(pids), flush=True)
        print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]), flush=True)


if __name__ == "__main__":
    main()
