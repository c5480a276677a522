"""Settings of `parallel` that cannot work here, refused before anything is computed."""

from __future__ import annotations

from babyllm.errors import UserError
from babyllm.model.config import ModelConfig
from babyllm.parallel.config import ParallelConfig
from babyllm.runtime import Runtime


def require_possible(config: ParallelConfig, runtime: Runtime, model: ModelConfig) -> None:
    """Refuse settings that do not fit each other, the ranks or the shape of the model.

    Raises:
        UserError: a setting cannot work here; the message names it.
    """
    n, size = runtime.data_ranks, config.shard_ranks or max(1, runtime.local_world_size // config.tensor)
    if config.shard_ranks and config.shard != "hybrid":
        raise UserError(f"parallel.shard_ranks={config.shard_ranks}: has an effect under parallel.shard=hybrid alone")
    if config.shard == "hybrid" and n % size:
        raise UserError(f"parallel.shard_ranks={size}: does not divide the {n} processes of the run that read different rows")
    if config.offload == "all" and (config.shard == "none" or n == 1):
        raise UserError("parallel.offload=all: needs parallel.shard=zero3 and at least 2 processes; or give optimizer")
    if config.context > 1:
        raise UserError(
            f"parallel.context={config.context}: is not supported; PyTorch splits rows in a fused CUDA kernel alone, "
            "which reads no document mask; use fewer rows in data.micro_batch, or model.activation_checkpointing"
        )
    _require_split(config.tensor, runtime, model)


def _require_split(n: int, runtime: Runtime, model: ModelConfig) -> None:
    """Refuse a number of ranks among which the matrices of the model do not divide."""
    if n != runtime.tensor:
        raise ValueError(f"the runtime was started with tensor={runtime.tensor}, and parallel.tensor is {n}")
    widths = {"n_heads": model.n_heads, "n_kv_heads": model.kv_heads, "d_ff": model.ff_width}
    for name, width in widths.items():
        if width % n:
            raise UserError(f"parallel.tensor={n}: does not divide model.{name}={width}; give a number that does")
    if n > 1 and runtime.compile is True:
        raise UserError(f"runtime.compile=true: is not supported with parallel.tensor={n}; leave one of them out")
