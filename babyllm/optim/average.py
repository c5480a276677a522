"""A moving average of the weights, which is evaluated and saved in place of the weights themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn

from babyllm.optim.config import OptimConfig
from babyllm.parallel.tensors import is_divided, local


class Average:
    """An exponential moving average of a model's trainable weights.

    Args:
        model: model; the average begins with its weights.
        decay: share of the average that a step keeps, 0 to 1; less in the first steps, (1 + step) / (10 + step).

    Attributes:
        tensors: averages of this rank's parts of the parameters, by their names, with their dtypes.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._decay = decay
        self._parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.tensors: dict[str, Tensor] = {}
        self.begin()

    def begin(self) -> None:
        """Restart the average with the weights as they are."""
        self.tensors = {name: local(p.detach()).clone() for name, p in self._parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after `step` steps."""
        decay = min(self._decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.tensors.values()), [local(p) for p in self._parameters.values()], 1 - decay)

    @contextmanager
    def in_model(self) -> Iterator[None]:
        """The model has the averaged weights while the body runs."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def _exchange(self) -> None:
        for name, parameter in self._parameters.items():
            if is_divided(parameter):  # gathered from memory that it must keep
                mine = local(parameter.detach())
                other = mine.clone()
                mine.copy_(self.tensors[name])
                self.tensors[name].copy_(other)
            else:
                parameter.data, self.tensors[name] = self.tensors[name], parameter.data


def make_average(model: nn.Module, config: OptimConfig) -> Average | None:
    """The average that the settings ask for; None if they ask for none. Call it where the optimizer is made."""
    return Average(model, config.average) if config.average else None


def averaged(average: Average | None) -> AbstractContextManager[None]:
    """A context in which the model has the weights to evaluate and save: the average, or its own without one."""
    return average.in_model() if average else nullcontext()


def evaluated(average: Average | None, measure: Callable[[], dict[str, float]]) -> dict[str, float]:
    """The results of the weights that are saved; with an average, "plain/" has those of the weights themselves."""
    plain = measure() if average else {}
    with averaged(average):
        result = measure()
    return result | {f"plain/{name}": value for name, value in plain.items() if name.startswith("all/")}
