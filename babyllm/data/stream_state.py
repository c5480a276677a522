"""A stream's state in a checkpoint: JSON values that name tensors, and the tensors.

save: state_dict of each rank -> gather: RankRows joined in rank order -> resume.json, stream.safetensors
load: resume.json, stream.safetensors -> join -> load_state_dict of each rank
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from babyllm.data.batch import RankRows, Stream
from babyllm.runtime import Runtime

_TENSOR = "$tensor"  # the key of a JSON object that stands for a tensor; its value is the tensor's name


class StreamState(NamedTuple):
    """The state of a stream, the same on every rank.

    Attributes:
        values: JSON values, in which `{"$tensor": name}` stands for a tensor.
        tensors: tensors by name, on the CPU, of any shape and dtype.
    """

    values: Any
    tensors: dict[str, Tensor]


def gather(stream: Stream, runtime: Runtime) -> StreamState:
    """Return the state of a stream over all ranks; every rank must call it.

    Raises:
        ValueError: the ranks' `RankRows` differ in number, shape or dtype, or the state uses the key "$tensor".
    """
    tensors: dict[str, Tensor] = {}

    def split(value: Any) -> Any:
        if isinstance(value, RankRows | Tensor):
            whole = _all_rows(value.tensor, runtime) if isinstance(value, RankRows) else value
            name = str(len(tensors))
            # Cloned because safetensors rejects tensors that share memory.
            tensors[name] = whole.detach().cpu().clone(memory_format=torch.contiguous_format)
            return {_TENSOR: name}
        if isinstance(value, dict):
            if _TENSOR in value:
                raise ValueError(f"a stream's state must not use the key {_TENSOR!r}")
            return {key: split(item) for key, item in value.items()}
        return [split(item) for item in value] if isinstance(value, list | tuple) else value

    state = stream.state_dict()
    _require_same_rows(state, runtime)
    return StreamState(split(state), tensors)


def join(values: Any, tensors: dict[str, Tensor]) -> Any:
    """Return the state for a stream's `load_state_dict`: the inverse of `gather`, `RankRows` as tensors of all rows."""
    if isinstance(values, dict):
        if values.keys() == {_TENSOR}:
            # Cloned: a mapped tensor would keep the file's disk space in use even after the file is deleted.
            return tensors[values[_TENSOR]].clone()
        return {key: join(item, tensors) for key, item in values.items()}
    return [join(item, tensors) for item in values] if isinstance(values, list) else values


def _require_same_rows(state: Any, runtime: Runtime) -> None:
    """Refuse rows that cannot be joined, on every rank, before a collective would wait without end."""
    found = [(str(rows.tensor.dtype), *rows.tensor.shape) for rows in _rows(state)]
    if not runtime.all_equal(repr(found)):
        raise ValueError(f"a stream's RankRows must have the same number, shape and dtype on every rank; here {found}")


def _rows(value: Any) -> list[RankRows]:
    if isinstance(value, RankRows):
        return [value]
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return [rows for item in items for rows in _rows(item)]


def _all_rows(mine: Tensor, runtime: Runtime) -> Tensor:
    """The rows of all ranks in rank order, (world_size * n, ...); sent as bytes, which every backend supports."""
    if runtime.world_size == 1:
        return mine
    flat = mine.detach().to(runtime.device).contiguous().reshape(-1).view(torch.uint8)
    parts = [torch.empty_like(flat) for _ in range(runtime.world_size)]
    torch.distributed.all_gather(parts, flat)
    return torch.cat([part.view(mine.dtype).reshape(mine.shape) for part in parts])
