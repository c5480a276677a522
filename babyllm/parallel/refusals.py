"""Settings of `parallel` that cannot work here, refused before anything is computed."""

from __future__ import annotations

from babyllm.errors import UserError
from babyllm.model.interface import Model
from babyllm.model.linear import FrozenLinear
from babyllm.parallel.config import ParallelConfig
from babyllm.runtime import Runtime


def require_possible(config: ParallelConfig, runtime: Runtime, model: Model) -> None:
    """Refuse settings that do not fit each other, the ranks or the model.

    Raises:
        UserError: a setting cannot work here; the message names it.
    """
    n, size = runtime.data_ranks, config.shard_ranks or max(1, runtime.local_world_size // config.tensor)
    if config.shard_ranks and config.shard != "hybrid":
        raise UserError(f"parallel.shard_ranks={config.shard_ranks}: has an effect under parallel.shard=hybrid alone")
    if config.shard == "hybrid" and n % size:
        raise UserError(f"parallel.shard_ranks={size}: does not divide the {n} processes of the run")
    if config.offload == "all" and (config.shard == "none" or n == 1):
        raise UserError("parallel.offload=all: needs parallel.shard=zero3 and at least 2 processes; or give optimizer")
    if config.context > 1:
        raise UserError(
            f"parallel.context={config.context}: is not supported; PyTorch splits rows in a fused CUDA kernel alone, "
            "which reads no document mask; use fewer rows in data.micro_batch, or model.activation_checkpointing"
        )
    _require_split(config.tensor, runtime, model)


def refuse_tensor(config: ParallelConfig, stage: str) -> None:
    """Refuse `parallel.tensor` in a stage whose ranks write answers and have them rewarded.

    Raises:
        UserError: the matrices are to be split.
    """
    if config.tensor > 1:
        raise UserError(
            f"parallel.tensor={config.tensor}: is not supported by {stage}, since processes that train on the same "
            "answers could be given different rewards; use parallel.shard=zero3"
        )


def _require_split(n: int, runtime: Runtime, model: Model) -> None:
    """Refuse a number of ranks among which the matrices of the model cannot be split."""
    if n != runtime.tensor:
        raise ValueError(f"the runtime was started with tensor={runtime.tensor}, and parallel.tensor is {n}")
    if n == 1:
        return
    shape = model.config
    for name, width in {"n_heads": shape.n_heads, "n_kv_heads": shape.kv_heads, "d_ff": shape.ff_width}.items():
        if width % n:
            raise UserError(f"parallel.tensor={n}: does not divide model.{name}={width}; give a number that does")
    if any(isinstance(layer, FrozenLinear) and layer.storage.startswith("nf4") for layer in model.modules()):
        raise UserError(
            f"parallel.tensor={n}: does not split weights in nf4, whose scales belong to runs of weights; "
            "use lora.base=int8, or parallel.shard=zero3"
        )
    if runtime.compile is True:
        raise UserError(f"runtime.compile=true: is not supported with parallel.tensor={n}; leave one of them out")
