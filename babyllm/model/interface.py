"""What training asks of a model: `Model`, which `Transformer`, `WithHead` and `ActorCritic` are.

training -> model(tokens, targets, ..., returns=...) -> per-token values -> loss

Legend: B batch, T time, D model width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from itertools import groupby
from typing import TYPE_CHECKING, Literal

from torch import Tensor, nn

if TYPE_CHECKING:
    from babyllm.model.config import ModelConfig

Output = Literal["nats", "entropy", "hidden", "values"]
"""A result of one forward call, by name:

nats: (B, T) float32, the negative log-likelihood of each target; 0 where it is `IGNORE`.
entropy: (B, T) float32, in nats, of the distribution each target is predicted with; 0 where the target is `IGNORE`.
hidden: (B, T, D), the final hidden states after the last norm.
values: (B, T) or (B, T, labels), or (B,) or (B, labels) of the last tokens; of a model with a head alone.
"""


class Model(nn.Module):
    """A model that can be trained, checkpointed and sharded.

    It is a class and not a typing protocol, because DistributedDataParallel, gradient clipping and optimizers take an
    `nn.Module`. Calling it is the only way to read it in training, so that a wrapper around it sees everything:
    `model(tokens, targets, positions, documents, weights=..., n_targets=..., returns=("nats", "entropy"))` returns a
    dictionary by `Output`. Without `returns` it returns the tensor the model is made for: the nats of a `Transformer`,
    the values of a `WithHead`.
    """

    if TYPE_CHECKING:  # declared for readers and type checkers; subclasses may hold plain attributes

        @property
        def config(self) -> ModelConfig:
            """The shape."""

        @property
        def origin(self) -> str | None:
            """The directory the weights were read from, which an adapter names as its base; None if they were drawn."""

        @property
        def layers(self) -> nn.ModuleList:
            """The blocks, in order: what is compiled, sharded or recomputed one by one."""


Gathering = Callable[[], AbstractContextManager[None]]
"""Makes a context in which a block has its weights."""
_GATHERING = "_gathering"


def gathering(block: nn.Module) -> Gathering | None:
    """Where a block gets its weights, if they come from other ranks for each pass; None for one that has them.

    A pass through the block does it by itself. Whoever reads the weights otherwise does so in the context.
    """
    found: Gathering | None = getattr(block, _GATHERING, None)
    return found


def set_gathering(block: nn.Module, context: Gathering | None) -> None:
    """Set what `gathering` returns."""
    setattr(block, _GATHERING, context)


def sorted_weights(model: Model) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a model in the order of their names, each with its name; those of a block while it has them."""
    blocks = {f"{name}.": part for name, part in model.named_modules() if any(part is block for block in model.layers)}

    def block_of(name: str) -> str | None:
        return next((prefix for prefix in blocks if name.startswith(prefix)), None)

    for prefix, names in groupby(sorted(model.state_dict()), block_of):
        with ((prefix and gathering(blocks[prefix])) or nullcontext)():
            tensors = model.state_dict()
            yield from ((name, tensors[name]) for name in names)
