"""Settings of `parallel` that cannot work here, refused before anything is computed."""

from __future__ import annotations

from babyllm.errors import UserError
from babyllm.parallel.config import ParallelConfig
from babyllm.runtime import Runtime


def require_possible(config: ParallelConfig, runtime: Runtime) -> None:
    """Refuse settings that do not fit each other or the ranks.

    Raises:
        UserError: a setting cannot work here; the message names it.
    """
    n, size = runtime.world_size, config.shard_ranks or runtime.local_world_size
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
