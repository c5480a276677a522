"""Memory of each rank under zero3 beside one process, and what a checkpoint costs there. Linux only.

    python -m benchmarks.parallel.sharding [--shape 250m] [--ranks 4] [--steps 1]

"held" are the bytes of weights, gradients and optimizer state after a step, "on a device" those that `parallel.offload`
would leave in a GPU's memory. Growths are those of a process's anonymous memory: in the steps over the one before the
model was made, and in a save and in a reading over the one before each. Reading begins without moments, as in a run
that resumes. "blocked" is the time for which a save kept training from going on, in steps. Of all ranks the highest
number counts. One process is measured twice: as runs are, and with freed memory returned, as it is in divided runs.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from babyllm.model.config import ModelConfig
from benchmarks import figures
from benchmarks.parallel import ranks
from benchmarks.training.ours import Shape, new_loader, random_tokens, train_steps

MEASURED = {
    "quick": Shape(ModelConfig(4096, 4, 128, 4, 2, max_seq_len=128), 4, 128),
    "50m": Shape(ModelConfig(16384, 8, 512, 8, 4, max_seq_len=128), 4, 128),
    "250m": Shape(ModelConfig(32000, 16, 1024, 16, 8, max_seq_len=128), 4, 128),
}
ONE: dict[str, Any] = {"shard": "none"}
DIVIDED: tuple[dict[str, Any], ...] = (
    {"shard": "zero3"},
    {"shard": "zero3", "offload": "optimizer"},
    {"shard": "zero3", "offload": "all"},
)


def main() -> None:
    parser = figures.parser(__doc__)
    parser.add_argument("--shape", nargs="*", choices=list(MEASURED), default=["250m"])
    parser.add_argument("--ranks", type=int, default=4, help="processes that share the model")
    parser.add_argument("--steps", type=int, default=1, help="steps before the numbers are taken")
    parser.add_argument("--worker", type=json.loads, help=argparse.SUPPRESS)
    args = figures.parse(parser, shape=["quick"])
    if args.worker:
        _work(**args.worker)
        return
    measured: list[figures.Figure] = []
    for name in args.shape:
        print(f"{name}: {MEASURED[name]}", flush=True)
        found: dict[str, dict[str, float]] = {}
        for label, ranks_of, job in _jobs(name, args.steps, args.ranks):
            values = found[label] = ranks.run(__spec__.name, job, ranks_of)
            for key in ("held", "on a device") if ranks_of > 1 else ():
                values[f"{key}, over one process"] = values[key] / found["1 process"]["held"]
            print(f"{label}: " + ", ".join(f"{k} {x:,.3g} {_unit(k)}" for k, x in values.items()), flush=True)
            measured += [figures.Figure(f"{name}, {label}: {k}", x, _unit(k)) for k, x in values.items()]
    figures.write(args, measured)


def _jobs(name: str, steps: int, n: int) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """The label, the number of ranks and the arguments of `_work` of each measurement."""
    job = {"name": name, "steps": steps}
    yield "1 process", 1, {**job, "parallel": ONE, "saves": True}
    yield "1 process, freed memory returned", 1, {**job, "parallel": ONE, "returns": True}
    for i, parallel in enumerate(DIVIDED):
        yield f"{n} ranks, {' '.join(parallel.values())}", n, {**job, "parallel": parallel, "saves": i == 0}


def _unit(key: str) -> str:
    """The unit of a value."""
    return {"blocked": "steps", "a step": "s"}.get(key, "ratio" if "over" in key else "MB")


def _work(name: str, steps: int, parallel: dict[str, Any], saves: bool = False, returns: bool = False) -> None:
    from babyllm.optim.build import make_optimizer
    from babyllm.optim.config import OptimConfig
    from babyllm.parallel.config import ParallelConfig
    from babyllm.runtime import RuntimeConfig, start
    from babyllm.runtime.machine import return_freed_memory
    from babyllm.training.state import TrainState

    shape, config = MEASURED[name], ParallelConfig(**parallel)
    with (
        start(RuntimeConfig(device="cpu", dtype="float32", threads=1)) as runtime,
        tempfile.TemporaryDirectory() as own,
    ):
        if returns:
            return_freed_memory()
        place = runtime.fresh_key("folder")
        if runtime.is_main:
            random_tokens(Path(own, "tokens"), shape.model.vocab_size, 1 << 16)
            runtime.post(place, own)
        runtime.barrier()
        folder = Path(runtime.posted(place) or own)
        values: dict[str, float] = {}
        with ranks.peak(values, "in steps"):
            model = _model(shape.model, runtime, config)
            loader = new_loader(folder / "tokens", shape, runtime)
            optimizer = make_optimizer(model, OptimConfig(matrices="adamw"), config.offload)
            state = TrainState(model, optimizer, runtime.scaler(), loader, runtime)
            train_steps(state, steps)
            began = time.perf_counter()
            train_steps(state, 1)
            values["a step"] = time.perf_counter() - began
        values |= _held(state, config.offload)
        if saves:
            _checkpoint(state, folder / "run", values)
        ranks.report(runtime, values)


def _model(shape: ModelConfig, runtime: Any, config: Any) -> Any:
    """A model of random weights, made as pretraining makes it."""
    import torch

    from babyllm.model.transformer import Transformer
    from babyllm.parallel.distribute import divides, prepare
    from babyllm.parallel.filling import draw

    torch.manual_seed(1)
    if not divides(config, runtime):
        return prepare(Transformer(shape), runtime, config)
    with torch.device("meta"):
        empty = Transformer(shape)
    model = prepare(empty, runtime, config)
    draw(model)
    return model


def _held(state: Any, offload: str) -> dict[str, float]:
    """MB of weights, gradients and optimizer state; and those of them that are on a device."""
    import torch

    from babyllm.parallel.tensors import local

    def megabytes(tensors: list[torch.Tensor]) -> float:
        return sum(local(x).nbytes for x in tensors) / 1e6

    parameters = list(state.model.parameters())
    weights, gradients = megabytes([p.detach() for p in parameters]), megabytes([p.grad for p in parameters])
    states = state.optimizer.state.values()
    moments = megabytes([x for of_one in states for x in of_one.values() if isinstance(x, torch.Tensor)])
    on_device = {"none": weights + gradients + moments, "optimizer": weights + gradients, "all": 0.0}[offload]
    return {"held": weights + gradients + moments, "on a device": on_device}


def _checkpoint(state: Any, directory: Path, values: dict[str, float]) -> None:
    """Save a step and read it."""
    from babyllm.optim.build import make_optimizer
    from babyllm.optim.config import OptimConfig
    from babyllm.training.checkpoint import Saver, resume

    saver = Saver(directory, None, 1)
    with ranks.peak(values, "in a save"):
        began = time.perf_counter()
        saver.save(state)
        values["blocked"] = (time.perf_counter() - began) / values["a step"]
        saver.join()
    state.runtime.barrier()
    state.optimizer = make_optimizer(state.model, OptimConfig(matrices="adamw"))
    with ranks.peak(values, "in a reading"):
        resume(directory, state, None)


if __name__ == "__main__":
    main()
