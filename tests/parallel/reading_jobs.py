"""Runs of a divided model with their evaluations, for processes of their own."""

import gc
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed.fsdp  # noqa: F401 (imported before the fork, not in each job)
import torch.distributed.tensor._utils  # noqa: F401
from torch import nn

import babyllm.training.stages.task_measure  # noqa: F401
from babyllm.config import parse
from babyllm.errors import UserError
from babyllm.model.transformer import Block
from babyllm.parallel.tensors import is_divided, local
from babyllm.parallel.twin import readable
from babyllm.runtime import Runtime
from babyllm.runtime.launching.program import user_errors
from babyllm.training.stage import Beginning, train_stage
from babyllm.training.stages.pretraining import begin
from babyllm.training.stages.pretraining_config import PretrainConfig
from babyllm.training.state import TrainState

LOOKS = 8  # passes of blocks, each of which takes a tenth of a second to look at


def evaluated_run(arguments: list[str], out: str) -> None:
    """Train with evaluations; leave the bytes of weights a rank has for a pass of an evaluation, and after the run."""
    config = parse(PretrainConfig, arguments, prog="test")
    with _most_bytes() as seen:
        stage = train_stage(config, begin)
    model = stage.state.model
    twin = list(readable(model).parameters())
    shapes = {part.shape for part in model.parameters()} - {local(part).shape for part in model.parameters()}
    gc.collect()
    left = _bytes(x for x in gc.get_objects() if isinstance(x, torch.Tensor) and x.shape in shapes)
    outside = {id(p) for p in model.parameters()} - {id(p) for block in model.layers for p in block.parameters()}
    blocks = [sum(p.numel() for p in block.parameters()) for block in model.layers]
    sizes = {
        "most": max(seen, default=0),
        "left": left,
        "twin": sum(p.nbytes for p in twin),
        "allowed": 4 * (max(blocks) + sum(p.numel() for p in model.parameters() if id(p) in outside)),
        "model": 4 * sum(p.numel() for p in model.parameters()),
    }
    Path(out, f"{stage.state.runtime.rank}.json").write_text(json.dumps(sizes), encoding="utf-8")


@contextmanager
def _most_bytes() -> Iterator[list[int]]:
    """The bytes of the weights that are in memory as a block of an undivided model, or of a twin, ends its pass."""
    seen: list[int] = []

    def look(block: nn.Module, inputs: object, outputs: object) -> None:
        if isinstance(block, Block) and not block.training and len(seen) < LOOKS:
            seen.append(_bytes(p for p in gc.get_objects() if isinstance(p, nn.Parameter)))

    handle = nn.modules.module.register_module_forward_hook(look)
    try:
        yield seen
    finally:
        handle.remove()


def _bytes(tensors: Iterable[torch.Tensor]) -> int:
    """The memory of tensors that are not a rank's parts; some are views of one."""
    memory = [tensor.untyped_storage() for tensor in tensors if not is_divided(tensor)]
    return sum({storage.data_ptr(): storage.nbytes() for storage in memory}.values())


def failing_run(arguments: list[str]) -> None:
    """Train with evaluations, the second of which fails on the last rank while other ranks read the model."""
    config = parse(PretrainConfig, arguments, prog="test")

    def failing(config: PretrainConfig, runtime: Runtime) -> Beginning:
        stage = begin(config, runtime)

        def measure(state: TrainState) -> dict[str, float]:
            if state.step == 2 and runtime.rank == runtime.world_size - 1:
                raise UserError("the held-out data are gone")
            return stage.measure(state)

        return replace(stage, measure=measure)

    with user_errors():
        train_stage(config, failing)


JOBS = {"evaluated_run": evaluated_run, "failing_run": failing_run}
