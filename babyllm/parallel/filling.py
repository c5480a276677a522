"""Weights of a model, drawn or read one layer at a time, so that no rank ever holds more than its parts of them.

files -> Weights, nothing read yet -> fill: layer by layer, each rank its parts -> the model
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from babyllm.errors import UserError
from babyllm.model.adapt.token_rows import RowEmbedding
from babyllm.model.heads import WithHead
from babyllm.model.linear import FrozenLinear
from babyllm.model.transformer import Block, Transformer
from babyllm.parallel.tensors import local, part_of, place_of

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Weights:
    """The weights of a plain model, without an adapter or quantised layers; each is read when it is asked for.

    Attributes:
        read: function that returns a whole weight by the name of its parameter, in any float type, on the CPU. It may
            be a view of a mapped file, of which a rank then reads its part alone.
        where: function that returns the place of a weight, for messages.
    """

    read: Callable[[str], Tensor]
    where: Callable[[str], str]

    def changed(self, change: Callable[[str, Tensor], Tensor]) -> Weights:
        """The weights that `change` returns, given a name and a weight."""
        return replace(self, read=lambda name: change(name, self.read(name)))

    def below(self, prefix: str) -> Weights:
        """The weights of a part of the model, by their names in the part."""
        return Weights(lambda name: self.read(prefix + name), lambda name: self.where(prefix + name))


@torch.no_grad()
def fill(model: nn.Module, weights: Weights, device: torch.device = CPU) -> None:
    """Give a model its weights; of a divided model each rank reads and keeps its own parts.

    One layer at a time is in memory in addition. Frozen layers are rounded to their storage, and updates begin as in a
    new adapter, drawn from torch's current generator in the order of the layers.

    Args:
        model: a model, or a part of one. Parameters on "meta" are replaced, by views of the files where these have
            their type; others are copied into.
        weights: weights by the names of the plain model.
        device: device of parameters that are on "meta".

    Raises:
        UserError: a value is not finite.
    """
    done: set[int] = set()
    for path, module in model.named_modules():
        mine = {name: p for name, p in module.named_parameters(recurse=False) if id(p) not in done}
        done |= {id(p) for p in mine.values()}
        if mine:
            _fill_module(module, mine, weights.below(f"{path}." if path else ""), device)


def _fill_module(
    module: nn.Module, parameters: dict[str, nn.Parameter], weights: Weights, device: torch.device
) -> None:
    last = ""

    def read(name: str) -> Tensor:
        nonlocal last
        last = name
        return weights.read(name)

    made = module.made_of(read) if isinstance(module, (FrozenLinear, RowEmbedding)) else None
    for name, parameter in parameters.items():
        if not parameter.numel():  # the output layer of a model that writes no text
            whole = torch.empty(parameter.shape)
        elif made is not None and name not in made:  # ids, which are known
            parameter.data = parameter.data.to(device)
            continue
        else:
            whole = read(name) if made is None else made.pop(name)
        part = part_of(whole, place_of(parameter))
        if not _is_finite(part):
            raise UserError(f"{weights.where(last)} holds NaN or infinity; use another step or model")
        put(parameter, part, device)


def _is_finite(part: Tensor) -> bool:
    # Minimum and maximum show NaN and infinity, much faster than a test of every element.
    comparable = part if part.itemsize > 1 else part.float()
    return not part.numel() or all(map(math.isfinite, comparable.aminmax()))


@torch.no_grad()
def fill_head(model: WithHead, device: torch.device = CPU, weight: Tensor | None = None) -> None:
    """Give the head of a model its weight (N, D), each rank its part; None draws it from torch's current generator."""
    whole = model.drawn() if weight is None else weight
    fill(model.score, Weights(lambda name: whole, lambda name: f"the {name} of the head"), device)


def put(parameter: nn.Parameter, part: Tensor, device: torch.device = CPU) -> None:
    """Give a parameter this rank's part of its values; one on "meta" takes over the tensor where the types agree."""
    if not parameter.is_meta:
        local(parameter).copy_(part)
        return
    taken = nn.Parameter(part.to(device, parameter.dtype), requires_grad=parameter.requires_grad)
    torch.utils.swap_tensors(parameter, taken)  # type: ignore[no-untyped-call]  # all that share it see the values


@torch.no_grad()
def draw(model: Transformer, device: torch.device = CPU) -> None:
    """Give each rank its parts of the weights that a model made as a whole draws with the same generator.

    Args:
        model: model, of which parameters on "meta" are replaced.
        device: device of these.
    """
    c = model.config
    for _ in range(c.n_layers):
        Block(c)  # PyTorch's layers draw weights when they are made, before those that the model draws
    nn.Linear(c.d_model, c.vocab_size, bias=False)
    for name, parameter in model.named_parameters():
        whole = torch.empty(parameter.shape)
        model.draw(name, whole)
        put(parameter, part_of(whole, place_of(parameter)), device)
