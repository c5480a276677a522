"""Settings of `parallel` that cannot work here, refused before anything is computed."""

from __future__ import annotations

from babyllm.errors import UserError
from babyllm.model.interface import Model
from babyllm.model.linear import FrozenLinear
from babyllm.model.transformer import Transformer
from babyllm.parallel.config import ParallelConfig
from babyllm.runtime import Runtime


def require_possible(config: ParallelConfig, runtime: Runtime, model: Model) -> None:
    """Refuse settings that do not fit each other, the ranks or the model.

    Raises:
        UserError: a setting cannot work here; the message names it.
    """
    n = runtime.world_size // config.tensor
    size = config.shard_ranks or max(1, runtime.local_world_size // config.tensor)
    if config.shard_ranks and config.shard != "hybrid":
        raise UserError(f"parallel.shard_ranks={config.shard_ranks}: has an effect under parallel.shard=hybrid alone")
    if config.shard == "hybrid" and n % size:
        raise UserError(f"parallel.shard_ranks={size}: does not divide the {n} processes of the run")
    if config.offload == "all" and (config.shard == "none" or n == 1):
        raise UserError("parallel.offload=all: needs parallel.shard=zero3 and at least 2 processes; or give optimizer")
    for name in ("tensor", "context"):
        given, started = getattr(config, name), getattr(runtime, name)
        if given != started:
            raise ValueError(f"the runtime was started with {name}={started}, and parallel.{name} is {given}")
        if given > 1 and runtime.compile is True:
            raise UserError(
                f"runtime.compile=true: is not supported with parallel.{name}={given}; leave one of them out"
            )
    _require_split(config.tensor, model)
    if config.context > 1 and not isinstance(model, Transformer):
        raise UserError(
            f"parallel.context={config.context}: is not supported for a model with a head, whose values would be of "
            "other processes' tokens too; use parallel.shard=zero3 or model.activation_checkpointing"
        )


def refuse_shared_rows(config: ParallelConfig, stage: str) -> None:
    """Refuse `parallel.tensor` and `parallel.context` in a stage whose ranks write answers and have them rewarded.

    Raises:
        UserError: several processes are to train on the same answers.
    """
    for name, n in {"tensor": config.tensor, "context": config.context}.items():
        if n > 1:
            raise UserError(
                f"parallel.{name}={n}: is not supported by {stage}, since processes that train on the same answers "
                "could be given different rewards; use parallel.shard=zero3"
            )


def _require_split(n: int, model: Model) -> None:
    """Refuse a number of ranks among which the matrices of the model cannot be split."""
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
