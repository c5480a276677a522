"""What a step directory is made of, taken between two steps.

state -> are the weights finite? -> tensors of each file, values of resume.json -> copied, so that no later step changes
them
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from babyllm.data.stream_state import StreamState
from babyllm.errors import UserError
from babyllm.files import sha256
from babyllm.integrity import OPTIMIZER, STREAM
from babyllm.interop.huggingface import model_tensors
from babyllm.interop.peft import adapter_parameters, adapter_tensors
from babyllm.interop.weights import WEIGHTS, hf_name, weight_files
from babyllm.model.adapt.lora import lora_layers
from babyllm.model.attention import attention_form
from babyllm.model.interface import Model
from babyllm.optim.average import averaged
from babyllm.optim.stored import optimizer_tensors
from babyllm.parallel.tensors import local, whole_tensor
from babyllm.runtime.machine import available_memory
from babyllm.training.checkpoint.parts import has_parts, held, index_of, owned, part_name
from babyllm.training.state import TrainState
from babyllm.training.watch import ADVICE


@dataclass(frozen=True)
class Snapshot:
    """A run between two steps, as it is saved.

    Attributes:
        step: number of finished optimizer steps.
        best: the best step so far; None before the first evaluation.
        model: model of the run, for its configuration and its layers; its weights may have changed since.
        tensors: tensors by the file of this rank that has them, and by their names there.
        resume: contents of resume.json that need no file.
        metadata: metadata of the files, by name.
        indices: contents of the indices of files in parts, by name.
        copies: names of the files whose tensors are copies already.
    """

    step: int
    best: int | None
    model: Model
    tensors: dict[str, dict[str, Tensor]]
    resume: dict[str, Any]
    metadata: dict[str, dict[str, str]] = field(default_factory=dict)
    indices: dict[str, dict[str, Any]] = field(default_factory=dict)
    copies: frozenset[str] = frozenset()

    @property
    def n_bytes(self) -> int:
        """Size of all tensors in bytes."""
        return sum(tensor.nbytes for file in self.tensors.values() for tensor in file.values())

    def copied(self) -> Snapshot:
        """The same snapshot, whose tensors are copies on the CPU; those of a GPU go through pinned memory."""
        copies = {
            file: tensors if file in self.copies else {name: _copy(tensor) for name, tensor in tensors.items()}
            for file, tensors in self.tensors.items()
        }
        if any(tensor.is_cuda for tensors in self.tensors.values() for tensor in tensors.values()):
            torch.cuda.synchronize()  # the copies run beside each other until here, and steps change what they read
        return replace(self, tensors=copies)

    def copied_if_it_fits(self) -> Snapshot | None:
        """The same of `copied`; None if memory is too short."""
        if available_memory() < 2 * self.n_bytes:  # the system and its cache of the files need some too
            return None
        try:
            return self.copied()
        except (MemoryError, RuntimeError):  # torch raises the latter, for instance at a limit that the user has set
            return None


def _copy(tensor: Tensor) -> Tensor:
    """A copy on the CPU, which is complete only after a wait where the tensor is on a GPU."""
    if not tensor.is_cuda:
        return tensor.to("cpu", copy=True)
    return torch.empty_like(tensor, device="cpu", pin_memory=True).copy_(tensor, non_blocking=True)


def take_snapshot(state: TrainState, stream: StreamState) -> Snapshot:
    """The snapshot of a run whose stream has the state `stream`; its tensors are the run's own, which a step changes.

    Of a divided model every rank takes its own, and all must; else rank 0 alone.

    Raises:
        UserError: the weights are not finite.
    """
    _require_finite(state)
    with averaged(state.average):
        tensors = adapter_tensors(state.model) if lora_layers(state.model) else model_tensors(state.model)
        own = _Own(state.runtime.rank, state.runtime.world_size)
        for file, its in tensors.items():
            own.add_weights(file, its)
    moments = optimizer_tensors(named_parameters(state.model), state.optimizer, has_average=state.average is not None)
    own.add_parts(OPTIMIZER, moments)
    if stream.tensors and state.runtime.is_main:
        own.tensors[STREAM] = stream.tensors
    best, resume = state.best[1] if state.best else None, resume_values(state, stream.values)
    return Snapshot(state.step, best, state.model, own.tensors, resume, own.metadata, own.indices, own.copies)


class _Own:
    """The files of a rank."""

    def __init__(self, rank: int, n_ranks: int) -> None:
        self._rank, self._n_ranks = rank, n_ranks
        self.tensors: dict[str, dict[str, Tensor]] = {}
        self.metadata: dict[str, dict[str, str]] = {}
        self.indices: dict[str, dict[str, Any]] = {}
        self.copies: frozenset[str] = frozenset()

    def add_weights(self, file: str, tensors: dict[str, Tensor]) -> None:
        """Add tensors that a file has whole; of a large divided file each rank has some."""
        if not has_parts(tensors):
            if self._rank == 0:
                self.tensors[file] = tensors
        elif Path(file).name == WEIGHTS:
            name = part_name(file, self._rank, self._n_ranks)
            self.tensors[name] = owned(tensors, self._rank, self._n_ranks)
            self.copies |= {name}
            self.indices[f"{file}.index.json"] = index_of(Path(file).name, tensors, self._n_ranks)
        else:
            gathered = {name: whole_tensor(tensor) for name, tensor in tensors.items()}
            if self._rank == 0:
                self.tensors[file] = gathered

    def add_parts(self, file: str, tensors: dict[str, Tensor]) -> None:
        """Add tensors of which each rank has its part."""
        if not has_parts(tensors):
            if self._rank == 0:
                self.tensors[file] = tensors
            return
        name = part_name(file, self._rank, self._n_ranks)
        self.tensors[name], self.metadata[name] = held(tensors)


def resume_values(state: TrainState, stream: Any) -> dict[str, Any]:
    """The contents of resume.json that need no file: the state and the stream, without their tensors."""
    return {
        "step": state.step,
        "tokens": state.tokens,
        "skipped": state.skipped,
        "best": state.best,
        "best_by": state.best_by,
        "bad_evaluations": state.bad_evaluations,
        "pending": state.pending,
        "stream": stream,
        "scaler": state.scaler.state_dict(),
        "memory": asdict(state.memory),
        "attention": attention_form(state.model),
        "cuts": state.cuts,
    }


def named_parameters(model: Model) -> dict[str, nn.Parameter]:
    """The parameters by their names in files."""
    return {hf_name(name): parameter for name, parameter in model.named_parameters()}


def _require_finite(state: TrainState) -> None:
    saved = adapter_parameters(state.model) or dict(state.model.named_parameters())
    saved = {name: part for name, parameter in saved.items() if (part := local(parameter.detach())).numel()}
    # Minimum and maximum show NaN and infinity, much faster than a test of every element.
    extremes = torch.stack([torch.stack(parameter.aminmax()) for parameter in saved.values()])
    for name, is_finite in zip(saved, extremes.isfinite().all(dim=1).tolist(), strict=True):
        if not is_finite:
            raise UserError(f"step {state.step} was not saved: its weights {name} are not finite; {ADVICE}")


def base_digest(model: Model) -> str | None:
    """The sha256 of each file of the adapter's base, in one string; None without an adapter or without files."""
    if not lora_layers(model) or not model.origin:
        return None
    files = [(file, file.stat()) for file in weight_files(Path(model.origin))]
    return " ".join(_file_digest(file, stat.st_size, stat.st_mtime_ns) for file, stat in files)


@cache  # size and time are part of the key: a file is hashed once, not at every checkpoint
def _file_digest(path: Path, size: int, time_ns: int) -> str:
    return sha256(path)
